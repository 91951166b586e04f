// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// try is one query to one upstream, with what has to follow it there: without EDNS,
// or over TCP. Its outcome goes to its taker, once.
type try struct {
	peer    *peer
	req     *Request
	opt     *edns // what goes out
	network string
	start   time.Time
	// before is the try before it to the same upstream, nil if there is none.
	before *try
	// short is the truncated answer for which TCP is the better way.
	short *message

	stale  bool        // it has brought another cookie before
	reused bool        // it went over a connection that had served before
	again  bool        // and was asked a second time
	done   atomic.Bool // its outcome is known
	// left: who sends its query needs the try no more. What arrives before is no answer.
	left atomic.Bool

	mu        sync.Mutex // guards what follows
	to        taker
	delivered bool
	wait      waiter
	id        uint16 // under which it waits
	over      bool
}

// taker is who gets what becomes of a try. It does not block.
type taker interface{ take(t *try, d delivery) }

// delivery is what has become of a try: the answer, or what went wrong.
type delivery struct {
	reply *message // refers to memory that is good for the call
	err   error
	in    *hearing // of the loop that has read the answer; nil for other sockets
}

// waiter is a socket that has promised an answer to a try.
type waiter interface{ forget(t *try, id uint16) }

// attempt is the outcome of a try.
type attempt struct {
	upstream *peer
	network  string
	reply    *message
	took     time.Duration
	err      error
}

// waits notes who will deliver; false if nobody wants to know any more.
func (t *try) waits(w waiter, id uint16) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wait, t.id = w, id
	return !t.over
}

// went reports whether a try has gone out by a socket.
func (t *try) went(by waiter) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wait == by
}

// abandon gives up, and returns the transport that was the last.
func (t *try) abandon() (network string) {
	t.mu.Lock()
	t.over = true
	w, id, network := t.wait, t.id, t.network
	t.mu.Unlock()
	if w != nil {
		w.forget(t, id)
	}
	return network
}

// goBy changes the transport. Who has the answer in hand does, and may read it; others ask
// abandon.
func (t *try) goBy(network string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.network = network
}

// interrupted is a connection that ended. A query that had only crossed the server's
// idle close is asked once more (RFC 7766 section 6.2.4).
func (t *try) interrupted(err error) {
	if !t.reused || t.again {
		t.deliver(delivery{err: err})
		return
	}
	t.again = true
	t.taker().(*race).ask(t) // nobody else uses connections
}

// deliver hands over what has become of the query.
func (t *try) deliver(d delivery) {
	t.mu.Lock()
	t.delivered = true
	to := t.to
	t.mu.Unlock()
	to.take(t, d)
}

func (t *try) taker() taker {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.to
}

// handOver makes somebody else the taker, unless it is too late.
func (t *try) handOver(to taker) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.delivered {
		return false
	}
	t.to = to
	return true
}

// take sees whether something has to follow.
func (r *race) take(t *try, d delivery) {
	reply, err := d.reply.clone(), d.err
	switch {
	case err == nil && r.mend(t, reply):
		return
	case err == nil && t.lacksEDNS(reply):
		// This hop's EDNS is ours to give up (RFC 6891 section 6.2.2).
		t.opt = nil
		t.req.metrics().retries[retryEDNS].Add(1)
		r.send(t)
		return
	case t.network == "udp" && isCut(reply, err):
		t.goBy("tcp")
		t.short = reply
		t.req.metrics().retries[retryTCP].Add(1)
		r.ask(t)
		return
	case err != nil && t.short != nil:
		// The client may have better luck, and TC tells it to try.
		t.goBy("udp")
		reply, err = t.short, nil
	}
	a := attempt{upstream: t.peer, network: t.network, reply: reply, took: time.Since(t.start), err: err}
	if err == nil {
		a.reply = reply.withQuestion(t.req)
	}
	t.done.Store(true)
	t.peer.learn(a)
	t.req.metrics().exchanged(a.network != "udp", a.took, a.outcome())
	r.arrive(a)
}

func (a *attempt) outcome() outcome {
	switch {
	case a.err == nil && isPoor(a.reply):
		return outcomeRefusal
	case a.err == nil:
		return outcomeAnswer
	case isTimeout(a.err):
		return outcomeTimeout
	}
	return outcomeError
}

// isSuspect reports an answer that is not to be believed, or not the last word, for what
// it says about what nobody else can know. It may be called twice.
func (t *try) isSuspect(reply *message) bool {
	return t.peer.cases.learn(t, reply) || t.peer.cookies.learn(t, reply) != cookieRight
}

// lacksEDNS recognises a server from before EDNS: it answers FORMERR or NOTIMP,
// without OPT of its own.
func (t *try) lacksEDNS(reply *message) bool {
	return t.opt != nil && !t.req.msg.signed && reply.opt < 0 &&
		(reply.rcode() == dns.RcodeFormatError || reply.rcode() == dns.RcodeNotImplemented)
}

// isCut reports an answer that is truncated or damaged, or a query that is too long: TCP
// may have the whole, or carry it.
func isCut(reply *message, err error) bool {
	if err != nil {
		return isMalformed(err) || errors.Is(err, unix.EMSGSIZE)
	}
	return reply.isTruncated()
}

// send asks by the transport of the try, and delivers to it if that fails.
func (r *race) send(t *try) {
	if t.network == "https" {
		go t.peer.post(r.ctx, t)
		return
	}
	if t.network != "udp" {
		r.ask(t)
		return
	}
	if err := t.peer.send(r.ctx, t); err != nil {
		t.deliver(delivery{err: err})
	}
}

// ask asks by TCP or TLS, which may have to connect first.
func (r *race) ask(t *try) { go t.peer.ask(r.ctx, t) }
