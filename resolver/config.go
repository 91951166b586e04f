// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"cmp"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// Config is what a Server needs to know. The zero value serves the table alone.
// Origin, Upstreams, Search and Logger are of Server.Serve, and of every Scope that has
// none of its own.
//
// A name is answered in this order: by the table, by the table without one of the
// search suffixes, as one that does not exist if the table is its authority, by Upstreams
// if there are any, by what Origin says.
type Config struct {
	// Origin says for which nameserver a query was meant, by the local address at
	// which it arrived. Nil or false: Upstreams. A query at an address that is
	// neither loopback nor known to Origin is dropped.
	Origin func(local netip.Addr) (netip.Addr, bool)
	// Upstreams get every forwarded query when there are any, in order with
	// failover, whatever Origin says.
	Upstreams []netip.AddrPort
	// Routes are for names that have servers of their own, see Settings.
	Routes []Route
	// ForwardSpecial forwards special names (localhost, invalid, onion, the reverse
	// names of loopback addresses: RFC 6761) too, instead of answering them.
	ForwardSpecial bool
	// RandomCase spells names to plain upstreams in a random case, and wants it back:
	// as many bits more that forged answers have to guess. Servers that cannot do that
	// are noticed.
	RandomCase bool
	// RootCAs verify the certificates of TLS and HTTPS upstreams; nil means the
	// system's.
	RootCAs *x509.CertPool
	// Search is the client's search list, as in resolv.conf.
	Search []string
	// Logger gets what goes wrong with sockets, and failed queries at debug
	// level. Nil discards.
	Logger *slog.Logger
	// QueryLog gets a line for each query; nil means none. With QueryLogEvery it is
	// one in so many. Names that clients ask for are private to them.
	QueryLog      *slog.Logger
	QueryLogEvery int

	// Timeout bounds the work for one query; zero means 4.5 s.
	Timeout time.Duration
	// Resend is how long an upstream may be silent before the query is sent
	// again, to the next one if there are several; zero means 800 ms.
	Resend time.Duration
	// MaxForwards bounds the queries that wait for an upstream; zero means 4096.
	MaxForwards int
	// CacheBytes bounds the memory for answers; zero means 16 MiB, a negative
	// number that nothing is kept.
	CacheBytes int
	// MaxConns bounds the TCP connections of each Serve; zero means 256.
	MaxConns int
}

const (
	// timeout ends before the stub's own 5 s (glibc, musl, dig), so that the
	// client hears the reason.
	timeout = 4500 * time.Millisecond
	// resend keeps within the second of RFC 9520 section 3.1 and leaves time for
	// three tries.
	resend = 800 * time.Millisecond
	// maxForwards is as many sockets as fit well below the usual limit of
	// descriptors after three tries each.
	maxForwards = 4096
	// maxAttempts and maxPatience are those of the C library.
	maxAttempts = 5
	maxPatience = 30 * time.Second
	maxConns    = 256
	// cacheBytes holds some twenty thousand answers.
	cacheBytes = 16 << 20
	// shortLived are the turns beyond maxForwards: for queries that wait for
	// nobody, so that a silent upstream never stops the table.
	shortLived = 256
	// maxPipelined bounds the queries of one connection that wait for answers;
	// beyond, it is not read (RFC 7766 section 6.2.1.1 asks for no number).
	maxPipelined = 32
	// tcpIdle: RFC 7766 section 6.2.3 wants "of the order of a few seconds".
	tcpIdle       = 10 * time.Second
	keepaliveUnit = 100 * time.Millisecond
	// drainTimeout bounds the answers after the end.
	drainTimeout = 5 * time.Second
	// grace is for what the kernel has already received when Serve ends.
	grace = 20 * time.Millisecond
	// firstGrace is for the first query of a connection that is accepted by then: between
	// connect and write a client may wait for a processor.
	firstGrace = time.Second
	// receiveBuffer is what a burst of some thousand queries needs; the kernel
	// cuts it to net.core.rmem_max.
	receiveBuffer = 4 << 20
)

// pace is when a query is asked again, and when all is over.
type pace struct {
	timeout, resend time.Duration
	attempts        int
}

// pace follows what the clients' own options say: whoever waits for n seconds hears of
// a failure when nine tenths of them are over, as with the five that are usual.
func (c Config) pace(s Settings) pace {
	p := pace{timeout: c.Timeout, resend: c.Resend, attempts: cmp.Or(min(s.Attempts, maxAttempts), tries)}
	if s.Timeout > 0 {
		p.timeout = min(s.Timeout, maxPatience) / 10 * 9
		p.resend = min(p.resend, p.timeout/3)
	}
	return p
}

func (c Config) withDefaults() (Config, error) {
	c.Timeout = cmp.Or(c.Timeout, timeout)
	c.Resend = cmp.Or(c.Resend, resend)
	c.MaxForwards = cmp.Or(c.MaxForwards, maxForwards)
	c.MaxConns = cmp.Or(c.MaxConns, maxConns)
	c.CacheBytes = cmp.Or(c.CacheBytes, cacheBytes)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Timeout < 0 || c.Resend < 0 || c.MaxForwards < 0 || c.MaxConns < 0 {
		return c, errors.New("a timeout or limit is negative")
	}
	return c, nil
}
