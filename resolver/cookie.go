// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"crypto/rand"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// clientCookie is the length of a client's cookie; a server's stands behind it, and
	// has 8 to 32 octets (RFC 7873 section 4).
	clientCookie               = 8
	minBothCookies, maxCookies = 16, 40
	// noCookies is how long a server that answers without a cookie gets none, and
	// firstNoCookies how long one that does not answer at all, longer each time: some
	// firewalls drop options that they do not know.
	firstNoCookies, noCookies = time.Minute, time.Hour
)

// cookie is what a plain upstream and we know each other by (RFC 7873): whoever forges its
// answers would have to guess that too. It never changes.
//
// A server whose mind is not known gets a cookie with one query, and then none until it
// has answered that with a cookie of its own. So the many that have none, and the few
// that take offence, cost a query an hour.
type cookie struct {
	// sent is our cookie, nobody else's, and the server's behind it once that is known.
	sent []byte
	// local is the address of our sockets: another one gets another cookie, so that
	// nobody can follow us by it (RFC 9018 section 3).
	local netip.Addr
	due   time.Time // of the next query with a cookie for a server whose own is not known
	pause time.Duration
}

func newCookie(local netip.Addr) *cookie {
	c := &cookie{sent: make([]byte, clientCookie), local: local}
	_, _ = rand.Read(c.sent) // crypto/rand does not fail
	return c
}

// isKnown reports whether the server has cookies too.
func (c *cookie) isKnown() bool { return len(c.sent) > clientCookie }

// without is the cookie of a server that is left alone for a while.
func (c *cookie) without(now time.Time, pause time.Duration) *cookie {
	return &cookie{sent: c.sent[:clientCookie:clientCookie], local: c.local, due: now.Add(pause), pause: pause}
}

// jar holds the cookie for one upstream; nil for one that needs none, since its
// connections are its own.
type jar struct{ atomic.Pointer[cookie] }

// opt is the OPT record of a try that goes out from an address of ours: with a cookie if
// the server's is known, or if it is time to find out. Who has no EDNS gets an answer
// without, what is signed is not ours to change, and in the largest there is no room.
func (j *jar) opt(t *try, from net.Addr) *edns {
	c, req := j.Load(), t.req
	if c == nil || t.opt == nil || req.msg.signed || req.verbatim || len(req.msg.wire) > maxDatagram-4-maxCookies || !c.isKnown() && t.start.Before(c.due) {
		return t.opt
	}
	sent := c
	if local := addrOf(from); local != c.local {
		sent = newCookie(local)
	}
	next := sent
	if !sent.isKnown() {
		next = sent.without(t.start, min(max(2*c.pause, firstNoCookies), noCookies))
	}
	// Of those who would find out, one does.
	if next != c && !j.CompareAndSwap(c, next) {
		return req.edns
	}
	return sent.with(req)
}

func (c *cookie) with(req *Request) *edns {
	opt := *req.edns
	opt.cookie = c.sent
	return &opt
}

// addrOf is the address of a UDP socket.
func addrOf(socket net.Addr) netip.Addr {
	if at, ok := socket.(*net.UDPAddr); ok {
		return at.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// accepts reports whether an answer may be the upstream's: one with another client
// cookie than went out is not (RFC 7873 section 5.3).
func (t *try) accepts(reply *message) bool {
	if t.opt == nil || t.opt.cookie == nil {
		return true
	}
	got, ok := reply.option(dns.EDNS0COOKIE)
	return !ok || isCookie(len(got)) && bytes.Equal(got[:clientCookie], t.opt.cookie[:clientCookie])
}

func isCookie(n int) bool { return n == clientCookie || n >= minBothCookies && n <= maxCookies }

// remark is what an answer says about cookies.
type remark int

const (
	cookieRight   remark = iota
	cookieUnknown        // to a server that stumbles over it
	cookieStale          // here is the right one
	cookieMissing        // the answer may be forged
)

// learn takes what an answer to a try says about cookies. It may be called twice.
func (j *jar) learn(t *try, reply *message) remark {
	if t.opt == nil || t.opt.cookie == nil {
		return cookieRight
	}
	c := j.Load()
	if c == nil || !bytes.Equal(c.sent[:clientCookie], t.opt.cookie[:clientCookie]) {
		return cookieRight // our address has changed meanwhile
	}
	got, _ := reply.option(dns.EDNS0COOKIE)
	rcode := reply.rcode()
	switch {
	case len(got) > clientCookie && t.network != "udp" && rcode == dns.RcodeBadCookie:
		j.CompareAndSwap(c, c.without(time.Now(), noCookies)) // it never is content
		return cookieStale
	case len(got) > clientCookie:
		if !bytes.Equal(got, c.sent) {
			j.CompareAndSwap(c, &cookie{sent: bytes.Clone(got), local: c.local})
		}
		if rcode == dns.RcodeBadCookie {
			return cookieStale
		}
	case t.network == "udp" && len(t.opt.cookie) > clientCookie:
		// TCP finds out. Meanwhile the others are better off without.
		j.CompareAndSwap(c, c.without(time.Now(), firstNoCookies))
		return cookieMissing
	default:
		j.CompareAndSwap(c, c.without(time.Now(), noCookies))
		if rcode == dns.RcodeFormatError || rcode == dns.RcodeNotImplemented || rcode == dns.RcodeBadVers || rcode == dns.RcodeBadCookie {
			return cookieUnknown
		}
	}
	return cookieRight
}

// mend asks again where an answer is suspect. Where its cookie was not right (RFC 7873
// section 5.3) that is with the right one, over TCP if that does not help, and at last
// without.
func (r *race) mend(t *try, reply *message) bool {
	if t.peer.cases.learn(t, reply) {
		t.goBy("tcp")
		t.req.metrics().retries[retryCase].Add(1)
		r.send(t)
		return true
	}
	said := t.peer.cookies.learn(t, reply)
	switch {
	case said == cookieRight:
		return false
	case said == cookieUnknown || said == cookieStale && t.network != "udp":
		t.opt = t.req.edns
	case said == cookieMissing:
		t.goBy("tcp")
	case t.stale:
		t.goBy("tcp")
		t.opt = t.peer.cookies.Load().with(t.req)
	default:
		t.stale = true // the next one has what came with this answer
	}
	t.req.metrics().retries[retryCookie].Add(1)
	r.send(t)
	return true
}
