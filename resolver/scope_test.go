// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

var (
	shared1 = netip.MustParseAddrPort("192.0.2.1:53")
	shared2 = netip.MustParseAddrPort("192.0.2.2:53")
)

// newScope makes a scope or fails.
func newScope(tb testing.TB, s *Server, c ScopeConfig) *Scope {
	tb.Helper()
	sc, err := s.NewScope(c)
	if err != nil {
		tb.Fatal(err)
	}
	return sc
}

// bare is a server without upstreams of its own in front of an end.
func bare(tb testing.TB, end Exchanger) *Server {
	tb.Helper()
	s, err := New(Config{})
	if err != nil {
		tb.Fatal(err)
	}
	s.chain = s.newChain(end)
	return s
}

// askScope is a query through a scope, without sockets.
func askScope(tb testing.TB, sc *Scope, m *dns.Msg) *dns.Msg {
	tb.Helper()
	var out *dns.Msg
	if err := sc.answer(tb.Context(), packetOf(tb, m), func(wire []byte) error {
		out = unpack(tb, wire)
		return nil
	}); err != nil || out == nil {
		tb.Fatalf("answer: %v, %v", out, err)
	}
	return out
}

func meant(server netip.Addr) func(netip.Addr) (netip.Addr, bool) {
	return func(netip.Addr) (netip.Addr, bool) { return server, true }
}

// Which scopes share an answer: those that would have asked the same servers, unless
// these are other hosts in every namespace. Both paths agree.
func TestScopesShareAnswers(t *testing.T) {
	list := func(ups ...netip.AddrPort) ScopeConfig { return ScopeConfig{Settings: Settings{Upstreams: ups}} }
	origin := func(addr string) ScopeConfig { return ScopeConfig{Origin: meant(netip.MustParseAddr(addr))} }
	private := origin("192.0.2.1")
	private.Private = true
	for _, tc := range []struct {
		name   string
		a, b   ScopeConfig
		shared bool
	}{
		{"same nameserver", origin("192.0.2.1"), origin("192.0.2.1"), true},
		{"other nameserver", origin("192.0.2.1"), origin("192.0.2.2"), false},
		{"loopback", origin("127.0.0.53"), origin("127.0.0.53"), false},
		{"loopback, IPv6", origin("::1"), origin("::1"), false},
		{"link-local", origin("169.254.20.10"), origin("169.254.20.10"), false},
		{"link-local, IPv6", origin("fe80::1"), origin("fe80::1"), false},
		{"private", private, private, false},
		{"private and not", private, origin("192.0.2.1"), false},
		{"same list", list(shared1, shared2), list(shared1, shared2), true},
		{"longer list", list(shared1, shared2), list(shared1), false},
		{"list and nameserver", list(shared1), origin("192.0.2.1"), false},
		{"list with loopback", list(shared1, netip.MustParseAddrPort("127.0.0.1:5353")), list(shared1, netip.MustParseAddrPort("127.0.0.1:5353")), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			end := &oracle{tb: t, answer: says(t, nil, good)}
			s := bare(t, end)
			a, b := newScope(t, s, tc.a), newScope(t, s, tc.b)
			q := query("a.example.org", dns.TypeA)
			wantGood(t, askScope(t, a, q))
			wire := pack(t, q)
			if a.newWirePath().answer(nil, wire, loopback, false) == nil {
				t.Error("not ready for the scope that asked")
			}
			if got := b.newWirePath().answer(nil, wire, loopback, false) != nil; got != tc.shared {
				t.Errorf("wire path: shared %t", got)
			}
			wantGood(t, askScope(t, b, q))
			if got := end.asked() == 1; got != tc.shared {
				t.Errorf("shared %t", got)
			}
		})
	}
}

// What keeps one scope from its upstream is no matter of the others: neither its
// failures nor its questions in flight are theirs (RFC 9520 section 3 is about the
// resolver's own tries).
func TestScopesFailAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var walled *Scope
		end := &oracle{tb: t, takes: 500 * time.Millisecond, answer: func(req *Request) (*Response, error) {
			if req.scope == walled {
				return timedOut(req)
			}
			return says(t, nil, good)(req)
		}}
		s := bare(t, end)
		config := ScopeConfig{Origin: meant(shared1.Addr())}
		walled = newScope(t, s, config)
		free := newScope(t, s, config)
		q := withEDNS(query("a.example.org", dns.TypeA), 1232)
		done := make(chan *dns.Msg)
		go func() { done <- askScope(t, walled, q.Copy()) }()
		pass(100 * time.Millisecond)
		wantGood(t, askScope(t, free, q)) // does not join, nor wait for, the other
		if got := <-done; got.Rcode != dns.RcodeServerFailure {
			t.Errorf("walled: %v", got)
		}
		// A failure of its own is remembered, but what another has learnt helps.
		wantGood(t, askScope(t, walled, q))
		other := withEDNS(query("b.example.org", dns.TypeA), 1232)
		for range 2 {
			if got := askScope(t, walled, other); got.Rcode != dns.RcodeServerFailure {
				t.Errorf("walled: %v", got)
			}
		}
		if n := end.asked(); n != 3 {
			t.Errorf("asked %d times", n)
		}
		if got := askScope(t, free, other); got.Rcode != dns.RcodeSuccess {
			t.Errorf("free: %v", got)
		}
	})
}

// A failure is forgotten with the first answer, also where that is kept elsewhere.
func TestScopeForgetsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := true
		end := &oracle{tb: t, answer: func(req *Request) (*Response, error) {
			if fail {
				return timedOut(req)
			}
			return says(t, nil, good)(req)
		}}
		s := bare(t, end)
		sc := newScope(t, s, ScopeConfig{Origin: meant(shared1.Addr())})
		q := query("a.example.org", dns.TypeA)
		for range 3 { // up to a pause of four seconds
			askScope(t, sc, q)
			pass(5 * time.Second)
		}
		fail = false
		wantGood(t, askScope(t, sc, q))
		pass(maxStale + time.Hour) // nothing stale is left to give instead
		fail = true
		askScope(t, sc, q)
		pass(firstPause)
		if n := end.asked(); n != 5 {
			t.Fatalf("asked %d times", n)
		}
		if askScope(t, sc, q); end.asked() != 6 {
			t.Error("the pause is not the first one")
		}
	})
}

// One table, and each scope expands names by its own search list, on both paths, also
// after a change.
func TestScopesSearch(t *testing.T) {
	s := before(t, Config{Search: []string{"svc.example.net"}}, &oracle{tb: t, answer: says(t, authority(t, dns.RcodeNameError, "."+" 300 IN SOA a. b. 1 1 1 1 300"))})
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	inherits := newScope(t, s, ScopeConfig{})
	other := newScope(t, s, ScopeConfig{Settings: Settings{Search: []string{"svc.example.com"}}})
	none := newScope(t, s, ScopeConfig{Settings: Settings{Search: []string{}}})
	check := func(sc *Scope, suffix string, want bool) {
		t.Helper()
		q := query("t.example.org."+suffix, dns.TypeA)
		for range 2 { // the second time on the wire path
			if got := len(askScope(t, sc, q).Answer) == 2; got != want {
				t.Errorf("%s: answered %t", suffix, got)
			}
			reply := sc.newWirePath().answer(nil, pack(t, q), loopback, false)
			if got := reply != nil && len(unpack(t, reply[2:]).Answer) == 2; got != want {
				t.Errorf("%s: ready %t", suffix, got)
			}
		}
	}
	check(inherits, "svc.example.net", true)
	check(other, "svc.example.net", false)
	check(none, "svc.example.net", false)
	check(other, "svc.example.com", true)
	check(inherits, "svc.example.com", false)
	other.SetSearch([]string{"svc.example.net"})
	check(other, "svc.example.net", true)
	check(other, "svc.example.com", false)
	other.SetSearch(nil)
	check(other, "svc.example.net", false)
	check(inherits, "svc.example.net", true)
}

// A change of the table forgets expansions of every scope that is served.
func TestSetTablePurgesScopes(t *testing.T) {
	end := &oracle{tb: t, answer: says(t, authority(t, dns.RcodeNameError, ". 300 IN SOA a. b. 1 1 1 1 300"))}
	s := bare(t, end)
	sc := newScope(t, s, ScopeConfig{Settings: Settings{Upstreams: []netip.AddrPort{shared1}, Search: []string{"svc.example.com"}}})
	l, addr := listen(t, "127.0.0.1")
	stop := serveScope(t, sc, l)
	q := query("t.example.org.svc.example.com", dns.TypeA)
	exchange(t, "udp", addr, q)
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	s.SetTable(nil)
	exchange(t, "udp", addr, q)
	if n := end.asked(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	stop()
	if len(s.scopes) != 0 {
		t.Error("the scope is still on the list")
	}
}

// serveScope is serve for a scope.
func serveScope(tb testing.TB, sc *Scope, l Listeners) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sc.Serve(ctx, l) }()
	var once atomic.Bool
	stop = func() {
		if once.Swap(true) {
			return
		}
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	}
	tb.Cleanup(stop)
	return stop
}

// Upstreams of a scope change while it is served; the sockets are its own.
func TestScopeSettings(t *testing.T) {
	first := upstream(t, with(t, nil, "a.example.org. 5 IN A 192.0.2.1"), nil)
	second := upstream(t, with(t, nil, "a.example.org. 5 IN A 192.0.2.2"), nil)
	var dialled atomic.Int32
	s, err := New(Config{CacheBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	sc := newScope(t, s, ScopeConfig{
		Settings: Settings{Upstreams: []netip.AddrPort{first.addr}},
		Dial: func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
			dialled.Add(1)
			return dialHere(ctx, network, server)
		},
	})
	l, addr := listen(t, "127.0.0.1")
	serveScope(t, sc, l)
	if got := lines(exchange(t, "udp", addr, query("a.example.org", dns.TypeA)).Answer); got[0] != "a.example.org. 5 IN A 192.0.2.1" {
		t.Errorf("got %v", got)
	}
	if dialled.Load() == 0 {
		t.Error("the socket is not of its own")
	}
	for want, bad := range map[string]netip.AddrPort{
		"upstream " + addr.String() + " is this resolver itself":         addr,
		`upstream "192.0.2.1:0" is not the address and port of a server`: netip.MustParseAddrPort("192.0.2.1:0"),
	} {
		if err := sc.Set(Settings{Upstreams: []netip.AddrPort{bad}}); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := sc.Set(Settings{Upstreams: []netip.AddrPort{second.addr}}); err != nil {
		t.Fatal(err)
	}
	if got := lines(exchange(t, "udp", addr, query("a.example.org", dns.TypeA)).Answer); got[0] != "a.example.org. 5 IN A 192.0.2.2" {
		t.Errorf("got %v", got)
	}
}

// A Dialer that fails is a failure with its words.
func TestDialerFails(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	sc := newScope(t, s, ScopeConfig{Origin: meant(shared1.Addr()),
		Dial: func(context.Context, string, netip.AddrPort) (net.Conn, error) {
			return nil, errors.New("the namespace is gone")
		}})
	if got := fmtEDE(askScope(t, sc, withEDNS(query("a.example.org", dns.TypeA), 1232))); got != "23 upstream 192.0.2.1:53: the namespace is gone" {
		t.Errorf("got %q", got)
	}
}

// No scope takes the turns of all.
func TestScopeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := before(t, Config{MaxForwards: 8}, &oracle{tb: t, takes: time.Second, answer: says(t, nil, good)})
		greedy, other := newScope(t, s, ScopeConfig{}), newScope(t, s, ScopeConfig{})
		refused := make(chan bool, 8)
		for i := range 8 {
			go func() {
				m := askScope(t, greedy, withEDNS(query(fmt.Sprintf("n%d.example.org", i), dns.TypeA), 1232))
				refused <- strings.HasSuffix(fmtEDE(m), "2 queries already wait for upstreams")
			}()
		}
		pass(10 * time.Millisecond)
		if got := askScope(t, other, query("a.example.org", dns.TypeA)); got.Rcode != dns.RcodeSuccess {
			t.Errorf("other scope: %v", got)
		}
		n := 0
		for range 8 {
			if <-refused {
				n++
			}
		}
		if n != 6 {
			t.Errorf("%d refused", n)
		}
	})
	s := before(t, Config{}, nil)
	if _, err := s.NewScope(ScopeConfig{MaxForwards: -1}); err == nil || err.Error() != "new scope: the limit of -1 queries is negative" {
		t.Errorf("got %v", err)
	}
}

// An idle scope of four UDP and four TCP sockets costs less than 64 kB of heap and
// stacks, before its first query and some time after its last.
func TestIdleScopeIsSmall(t *testing.T) {
	const scopes = 32
	most := 64 << 10
	if raced {
		most *= 2
	}
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	before := memory()
	var addrs []netip.AddrPort
	for range scopes {
		var all Listeners
		for range 4 {
			l, addr := listen(t, "127.0.0.1")
			all.UDP, all.TCP = append(all.UDP, l.UDP...), append(all.TCP, l.TCP...)
			addrs = append(addrs, addr)
		}
		serveScope(t, newScope(t, s, ScopeConfig{}), all)
	}
	small := func() error {
		if each := (memory() - before) / scopes; each > most {
			return fmt.Errorf("%d octets for each scope", each)
		}
		return nil
	}
	ask := func() {
		for _, addr := range addrs {
			for _, network := range []string{"udp", "tcp"} {
				conn, err := net.Dial(network, addr.String()) // what connect keeps would count
				if err != nil {
					t.Fatal(err)
				}
				send(t, conn, pack(t, query("t.example.org", dns.TypeA)))
				receive(t, conn)
				_ = conn.Close()
			}
		}
	}
	testenv.Eventually(t, patience, small)
	ask()
	testenv.Eventually(t, patience, small)
	t.Logf("%d octets for each scope", (memory()-before)/scopes)
	ask() // they wake up again
}

// memory is what heap and stacks take.
func memory() int {
	runtime.GC()
	runtime.GC() // what a pool holds goes with the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}
