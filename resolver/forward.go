// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// tries is how often each upstream is asked. Three, 800 ms apart, is one more than
// one lost packet each way needs.
const tries = 3

// forwarder is the end of the chain: it asks the upstreams of a request.
type forwarder struct{}

func (f *forwarder) Exchange(ctx context.Context, req *Request) (*Response, error) {
	// A transfer takes as long as it takes; its steps are bounded one by one.
	if req.TCP && isTransfer(req.msg.qtype) {
		return f.transfer(ctx, req, req.upstreams)
	}
	r := f.newRace(req, time.Now())
	req.scope.hedges.earn()
	defer r.begin(ctx)()
	r.launch()
	return r.run()
}

func (f *forwarder) newRace(req *Request, start time.Time) *race {
	st := req.scope.settings.Load()
	return &race{req: req, pace: st.pace, peers: req.scope.choose(st, req.scope.peersOf(req.upstreams)),
		deadline: start.Add(st.pace.timeout), wake: make(chan struct{}, 1)}
}

// race is one query on its way to one or more upstreams. Earlier tries go on
// listening while later ones are sent: a server that needs two seconds for every
// answer is slow, not dead.
type race struct {
	ctx      context.Context
	req      *Request
	peers    []*peer
	pace     pace
	deadline time.Time
	wake     chan struct{} // says that something has arrived

	mu      sync.Mutex // guards what follows
	arrived []attempt

	tries    []*try
	pending  int
	failures []attempt
	refusals []attempt // answers that another server may better
}

// begin lets a race run until the returned function is called.
func (r *race) begin(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	r.ctx = ctx
	return func() {
		cancel()
		for _, t := range r.tries {
			network := t.abandon()
			took := time.Since(t.start)
			if t.done.Load() {
				continue
			}
			if len(r.tries) > 1 {
				t.peer.late(took)
			}
			if took >= r.pace.resend {
				r.req.metrics().exchanged(network != "udp", took, outcomeTimeout)
			}
		}
	}
}

// arrive is how tries deliver; it never blocks.
func (r *race) arrive(a attempt) {
	r.mu.Lock()
	r.arrived = append(r.arrived, a)
	r.mu.Unlock()
	r.poke()
}

// poke makes a race look what has happened.
func (r *race) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// next takes what has arrived.
func (r *race) next() (attempt, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.arrived) == 0 {
		return attempt{}, false
	}
	a := r.arrived[0]
	r.arrived = r.arrived[1:]
	return a, true
}

// run waits for what was launched.
func (r *race) run() (*Response, error) {
	timer := time.NewTimer(r.untilNext())
	defer timer.Stop()
	for r.pending > 0 {
		if a, ok := r.next(); ok {
			r.pending--
			if a.err == nil && !isPoor(a.reply) {
				r.better()
				return a.response(), nil
			}
			r.note(a)
			// Whoever says no at once makes room for the next at once.
			if len(r.tries) < len(r.peers) {
				r.req.metrics().retries[retryFailover].Add(1)
				r.launch()
				timer.Reset(r.untilNext())
			}
			continue
		}
		if r.isLooping() {
			return r.end()
		}
		select {
		case <-r.wake:
		case <-timer.C:
			if !time.Now().Before(r.deadline) {
				return r.end()
			}
			if len(r.refusals) > 0 && len(r.tries) >= len(r.peers) {
				return r.refusals[0].response(), nil
			}
			r.overdue()
			timer.Reset(r.untilNext())
		case <-r.ctx.Done():
			return r.end()
		}
	}
	return r.end()
}

// untilNext is how long to wait for what is on its way.
func (r *race) untilNext() time.Duration {
	left := time.Until(r.deadline)
	if len(r.tries) >= r.pace.attempts*len(r.peers) && len(r.refusals) == 0 {
		return left
	}
	wait := r.pace.resend
	if n := len(r.tries); n < len(r.peers) && n > 0 {
		last := r.tries[n-1]
		elapsed := time.Since(last.start)
		if hedge := last.peer.patience(wait); elapsed < hedge {
			wait = hedge
		}
		wait -= elapsed
	}
	return min(max(wait, 0), left)
}

// overdue is when the last try should have had its answer.
func (r *race) overdue() {
	if n := len(r.tries); n > 0 {
		last := r.tries[n-1]
		silent := time.Since(last.start) >= r.pace.resend
		if silent && !last.done.Load() {
			last.peer.owes(r.req.msg.name)
			if n > len(r.peers) { // not for one lost packet
				r.checkLoop(last.peer)
			}
		}
		// A probe of a dead server is no hedge: the query is meant for the next.
		if !silent && n < len(r.peers) && !last.peer.isDead() && !r.req.scope.hedges.pay() {
			return
		}
	}
	r.retry()
}

// startWith makes a try that is on its way the first one.
func (r *race) startWith(t *try) {
	r.tries, r.pending = []*try{t}, 1
	i := slices.Index(r.peers, t.peer)
	if i < 0 { // the settings have changed meanwhile
		r.peers = append([]*peer{t.peer}, r.peers...)
		return
	}
	r.peers = slices.Insert(slices.Delete(slices.Clone(r.peers), i, i+1), 0, t.peer)
}

// retry asks once more, the next upstream if there are several.
func (r *race) retry() {
	if len(r.tries) < r.pace.attempts*len(r.peers) {
		r.req.metrics().retries[retryResend].Add(1)
		r.launch()
	}
}

func (r *race) launch() {
	p := r.peers[len(r.tries)%len(r.peers)]
	now := time.Now()
	t := &try{to: r, peer: p, req: p.cases.spell(r.req, now), opt: r.req.edns, network: p.up.network(r.req.TCP), start: now}
	if p.up.transport >= overTLS {
		t.opt = t.opt.hidden()
	}
	if n := len(r.tries) - len(r.peers); n >= 0 {
		t.before = r.tries[n]
	}
	r.tries = append(r.tries, t)
	r.pending++
	if p.isLooping(now) {
		t.done.Store(true)
		r.arrive(attempt{upstream: p, network: t.network, err: errLoop})
		return
	}
	p.asks()
	r.send(t)
}

func (r *race) note(a attempt) {
	if a.err != nil {
		r.failures = append(r.failures, a)
	} else {
		r.refusals = append(r.refusals, a)
	}
}

// better notes that a server has the answer that others refused.
func (r *race) better() {
	for _, a := range r.refusals {
		a.upstream.owes(r.req.msg.name)
	}
}

// isPoor reports an answer that another server may better.
func isPoor(m *message) bool { return isRefusal(m) || isLame(m) }

// isRefusal reports an answer that says more about its server than about the name.
func isRefusal(m *message) bool {
	rcode := m.rcode()
	return m.opcode() == dns.OpcodeQuery && (rcode == dns.RcodeServerFailure || rcode == dns.RcodeRefused)
}

// isLame reports a referral where recursion was asked for: its server is not the one to
// ask. The resolver of the C library goes on to the next one too.
func isLame(m *message) bool {
	if m.flags()&(bitAA|bitRD|bitRA) != bitRD || m.opcode() != dns.OpcodeQuery || m.rcode() != dns.RcodeSuccess || m.count(countAN) > 0 {
		return false
	}
	refers := false
	for _, r := range m.records {
		if r.section == inAuthority {
			refers = refers || r.typ == dns.TypeNS
			if r.typ == dns.TypeSOA {
				return false // NODATA, RFC 2308 section 2.2
			}
		}
	}
	return refers
}

// end is the answer when no try brought a good one.
func (r *race) end() (*Response, error) {
	if len(r.refusals) > 0 {
		return r.refusals[0].response(), nil
	}
	var words []string
	ede := dns.ExtendedErrorCodeNetworkError
	for i, up := range r.peers[:min(len(r.tries), len(r.peers))] {
		text, silent := r.account(i, up)
		words = append(words, text)
		if silent {
			ede = dns.ExtendedErrorCodeNoReachableAuthority
		}
	}
	return nil, &failure{rcode: dns.RcodeServerFailure, ede: ede, text: strings.Join(words, "; "), upstream: r.ctx.Err() == nil}
}

// account says in words what became of the tries at upstream i.
func (r *race) account(i int, up *peer) (text string, silent bool) {
	var last error
	for _, a := range r.failures {
		if a.upstream == up && !isTimeout(a.err) {
			last = a.err
		}
	}
	if up.isLooping(time.Now()) {
		last = errLoop
	}
	if last != nil {
		return fmt.Sprintf("upstream %s: %s", up.up, reason(last)), false
	}
	n := (len(r.tries) - i + len(r.peers) - 1) / len(r.peers)
	if n == 1 {
		return fmt.Sprintf("upstream %s timed out after %s", up.up, r.waited(i)), true
	}
	return fmt.Sprintf("upstream %s timed out after %d tries in %s", up.up, n, r.waited(i)), true
}

// waited is how long upstream i has been waited for.
func (r *race) waited(i int) time.Duration {
	begin, end := r.tries[i].start, time.Now()
	if i == 0 {
		begin = r.deadline.Add(-r.pace.timeout)
	}
	if end.After(r.deadline) {
		end = r.deadline
	}
	return brief(end.Sub(begin))
}

// reason is the cause of a socket error; the caller names the upstream.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

func isMalformed(err error) bool { return errors.Is(err, errMalformed) }

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func (a *attempt) response() *Response {
	return &Response{msg: a.reply, upstream: a.upstream.up.addr, tcp: a.network != "udp",
		origin: fmt.Sprintf("upstream %s over %s in %s", a.upstream.up, a.network, brief(a.took))}
}

// brief rounds a duration to what people read.
func brief(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
