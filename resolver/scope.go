// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Dialer opens a connected socket to a server: network is "udp" or "tcp". It
// returns soon after ctx ends.
type Dialer func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)

// Settings are what may change while a scope is served.
type Settings struct {
	// Upstreams get every forwarded query when there are any, in order with
	// failover, whatever Origin says. Nil means the Server's.
	Upstreams []netip.AddrPort
	// Routes are for names that have servers of their own, whatever Origin says; the
	// longest suffix wins. The route of "." is another way to write Upstreams, for
	// servers of other kinds. Nil means the Server's.
	Routes []Route
	// Search is the clients' search list, as in resolv.conf. Nil means the Server's.
	Search []string
	// Timeout, Attempts and Rotate are what resolv.conf's options of these names say.
	// A client that waits for Timeout hears of a failure before; each upstream is
	// asked Attempts times, and with Rotate another one first each time. Zero means
	// that the Server's own times count, and three attempts.
	Timeout  time.Duration
	Attempts int
	Rotate   bool
}

// ScopeConfig is what belongs to one scope. Zero fields mean what the Config of the
// Server says.
type ScopeConfig struct {
	Settings
	// Origin is that of Config, for the listeners of this scope.
	Origin func(local netip.Addr) (netip.Addr, bool)
	// Dial opens the sockets to upstreams. It decides in which network namespace
	// they live, hence their source address and routes.
	Dial Dialer
	// Private scopes share no answer with others: where servers answer by who asks.
	Private bool
	Logger  *slog.Logger
	// MaxForwards bounds the scope's queries that wait for an upstream; zero means
	// a quarter of the Server's, so that no scope takes the turns of all.
	MaxForwards int
}

// Scope is a world of clients with listeners, nameservers and a search list of its
// own: a network namespace, usually. Scopes of one Server share its table, limits and
// cache.
//
// What they share of the cache: an answer is for every scope that would have asked
// the same server, or the same list of servers. It is for its scope alone if the
// scope is private, or one of the servers has a loopback or link-local address, which
// is another server in every namespace. Questions in flight and failures are never
// shared: what keeps one scope from its upstream is no matter of the others.
//
// An idle scope has neither buffers nor timers.
type Scope struct {
	server   *Server
	log      *slog.Logger
	origin   func(netip.Addr) (netip.Addr, bool) // may be nil
	dial     Dialer
	private  bool
	number   uint32 // nobody else's, and never 0
	forwards turns  // of what waits for upstreams
	listen   atomic.Pointer[[]netip.AddrPort]
	peers    peers
	passages passages
	hedges   hedges
	turn     atomic.Uint32 // of Rotate
	answered share

	mu       sync.Mutex // guards changes of settings
	settings atomic.Pointer[settings]
}

// settings are Settings ready for use. They never change.
type settings struct {
	given  Settings
	routes *routes
	search suffixes
	pace   pace
}

// NewScope makes a scope, to be served by its own Serve. It fails on an upstream that
// is none, or a negative limit.
func (s *Server) NewScope(c ScopeConfig) (*Scope, error) {
	if c.MaxForwards < 0 {
		return nil, fmt.Errorf("new scope: the limit of %d queries is negative", c.MaxForwards)
	}
	if c.MaxForwards == 0 {
		c.MaxForwards = max(1, s.cfg.MaxForwards/4)
	}
	sc := s.newScope(c)
	if err := sc.Set(c.Settings); err != nil {
		return nil, err
	}
	return sc, nil
}

func (s *Server) newScope(c ScopeConfig) *Scope {
	sc := &Scope{server: s, log: c.Logger, origin: c.Origin, dial: c.Dial, private: c.Private,
		number: s.groups.next()}
	sc.forwards.most = int64(c.MaxForwards)
	if sc.origin == nil {
		sc.origin = s.cfg.Origin
	}
	if sc.log == nil {
		sc.log = s.cfg.Logger
	}
	if sc.dial == nil {
		sc.dial = dialHere
	}
	sc.listen.Store(new([]netip.AddrPort))
	return sc
}

// Set replaces the settings of a scope, served or not; queries under way finish with
// those they began with. It fails on an upstream that is no server, or this scope
// itself, and then changes nothing. A search suffix that is no name is logged and
// left out: no client can use it either.
func (sc *Scope) Set(given Settings) error {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.set(given)
}

func (sc *Scope) set(given Settings) error {
	st := &settings{given: given}
	var err error
	if st.routes, err = sc.newRoutes(given); err != nil {
		return err
	}
	if given.Timeout < 0 || given.Attempts < 0 {
		return errors.New("a timeout or number of attempts is negative")
	}
	st.pace = sc.server.cfg.pace(given)
	search := given.Search
	if search == nil {
		search = sc.server.cfg.Search
	}
	list, bad := parseSuffixes(search)
	for _, err := range bad {
		sc.log.Warn("search suffix left out", "err", err)
	}
	st.search = list
	sc.settings.Store(st)
	return nil
}

// SetSearch replaces the search list alone.
func (sc *Scope) SetSearch(search []string) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	given := sc.settings.Load().given
	given.Search = search
	if search == nil {
		given.Search = []string{}
	}
	_ = sc.set(given) // the rest was accepted before
}

// isNear reports addresses that are another host in every network namespace.
func isNear(a netip.Addr) bool {
	return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified()
}

// set says who is asked, as far as it changes answers.
type set struct {
	server netip.AddrPort // the nameserver that was meant
	group  uint32         // or a number for a list of them
	scope  uint32         // 0, or the scope whose own this is
}

// groups gives numbers to what keys would be too long with. It forgets nothing: there
// are as many lists of servers as people write down.
type groups struct {
	mu      sync.Mutex // guards what follows
	last    uint32
	numbers map[string]uint32
}

// next is a number that nobody has.
func (g *groups) next() uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	return g.last
}

// number is the same for the same text, and never 0.
func (g *groups) number(text string) uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.numbers[text]
	if !ok {
		if g.numbers == nil {
			g.numbers = make(map[string]uint32)
		}
		g.last++
		n = g.last
		g.numbers[text] = n
	}
	return n
}

// isServed reports whether queries at a local address are ours to answer: we are
// never an open resolver.
func (sc *Scope) isServed(local netip.Addr) bool {
	if local.IsLoopback() {
		return true
	}
	_, ok := originOf(sc.origin, local)
	return ok
}

// originOf asks an Origin that may be nil.
func originOf(origin func(netip.Addr) (netip.Addr, bool), local netip.Addr) (netip.Addr, bool) {
	if origin == nil {
		return netip.Addr{}, false
	}
	return origin(local)
}
