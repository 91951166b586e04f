// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
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
type forwarder struct {
	timeout time.Duration
	resend  time.Duration
}

func (f *forwarder) Exchange(ctx context.Context, req *Request) (*Response, error) {
	ups := req.upstreams
	// A transfer takes as long as it takes; its steps are bounded one by one.
	if req.TCP && isTransfer(req.msg.qtype) {
		return f.transfer(ctx, req, ups)
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	r := &race{req: req, ups: ups, resend: f.resend, results: make(chan attempt, tries*len(ups))}
	defer func() {
		cancel()
		r.running.Wait()
	}()
	return r.run(ctx)
}

// race is one query on its way to one or more upstreams. Earlier tries go on
// listening while later ones are sent: a server that needs two seconds for every
// answer is slow, not dead.
type race struct {
	req     *Request
	ups     []netip.AddrPort
	resend  time.Duration
	results chan attempt
	running sync.WaitGroup

	launched, pending int
	failures          []attempt
	refusal           *attempt // an answer, but one that another server may better
}

// attempt is the outcome of one try.
type attempt struct {
	upstream netip.AddrPort
	network  string
	reply    *message
	took     time.Duration
	err      error
}

func (r *race) run(ctx context.Context) (*Response, error) {
	timer := time.NewTimer(r.resend)
	defer timer.Stop()
	r.launch(ctx)
	for r.pending > 0 {
		select {
		case a := <-r.results:
			r.pending--
			if a.err == nil && !isRefusal(a.reply) {
				return a.response(), nil
			}
			r.note(a)
			// Whoever says no at once makes room for the next at once.
			if r.launched < len(r.ups) {
				r.launch(ctx)
				timer.Reset(r.resend)
			}
		case <-timer.C:
			if r.refusal != nil && r.launched >= len(r.ups) {
				return r.refusal.response(), nil
			}
			if r.launched < cap(r.results) {
				r.launch(ctx)
				timer.Reset(r.resend)
			}
		case <-ctx.Done():
			return r.end()
		}
	}
	return r.end()
}

func (r *race) launch(ctx context.Context) {
	up := r.ups[r.launched%len(r.ups)]
	r.launched++
	r.pending++
	r.running.Go(func() {
		start := time.Now()
		a := attempt{upstream: up}
		a.reply, a.network, a.err = ask(ctx, up, r.req)
		a.took = time.Since(start)
		r.results <- a
	})
}

func (r *race) note(a attempt) {
	if a.err != nil {
		r.failures = append(r.failures, a)
	} else if r.refusal == nil {
		r.refusal = &a
	}
}

// isRefusal reports an answer that says more about its server than about the name.
func isRefusal(m *message) bool {
	rcode := m.rcode()
	return m.opcode() == dns.OpcodeQuery && (rcode == dns.RcodeServerFailure || rcode == dns.RcodeRefused)
}

// end is the answer when no try brought a good one.
func (r *race) end() (*Response, error) {
	if r.refusal != nil {
		return r.refusal.response(), nil
	}
	var words []string
	ede := dns.ExtendedErrorCodeNetworkError
	for i, up := range r.ups[:min(r.launched, len(r.ups))] {
		text, silent := r.account(i, up)
		words = append(words, text)
		if silent {
			ede = dns.ExtendedErrorCodeNoReachableAuthority
		}
	}
	return nil, &failure{rcode: dns.RcodeServerFailure, ede: ede, text: strings.Join(words, "; "), upstream: true}
}

// account says in words what became of the tries at upstream i.
func (r *race) account(i int, up netip.AddrPort) (text string, silent bool) {
	var last error
	for _, a := range r.failures {
		if a.upstream == up && !isTimeout(a.err) {
			last = a.err
		}
	}
	if last != nil {
		return fmt.Sprintf("upstream %s: %s", up, reason(last)), false
	}
	n := (r.launched - i + len(r.ups) - 1) / len(r.ups)
	if n == 1 {
		return fmt.Sprintf("upstream %s timed out", up), true
	}
	return fmt.Sprintf("upstream %s timed out after %d tries", up, n), true
}

// reason is the cause of a socket error; the caller names the upstream.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func (a *attempt) response() *Response {
	return &Response{msg: a.reply, upstream: a.upstream, tcp: a.network == "tcp",
		origin: fmt.Sprintf("upstream %s over %s in %s", a.upstream, a.network, brief(a.took))}
}

// brief rounds a duration to what people read.
func brief(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
