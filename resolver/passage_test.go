// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// startWarm is start with ports to the upstreams open, so that plain queries need no
// goroutine.
func startWarm(t *testing.T, cfg Config) (*Server, netip.AddrPort) {
	t.Helper()
	s, addr := start(t, cfg)
	warmPorts(t, s)
	return s, addr
}

type starter func(*testing.T, Config) (*Server, netip.AddrPort)

// bothWays runs a test with queries that need a goroutine and with those that do not.
func bothWays(t *testing.T, name string, test func(*testing.T, starter)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		test(t, func(t *testing.T, cfg Config) (*Server, netip.AddrPort) { return start(t, cfg) })
	})
	t.Run(name+", no goroutine", func(t *testing.T) { test(t, startWarm) })
}

func warmPorts(t *testing.T, s *Server) {
	t.Helper()
	for _, up := range s.cfg.Upstreams {
		for range maxPorts {
			if _, err := s.own.peer(up).open(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// inPassage reports whether the only question in flight has no goroutine.
func inPassage(s *Server) bool {
	s.joins.mu.Lock()
	defer s.joins.mu.Unlock()
	for _, f := range s.joins.flights {
		if f.passage == nil {
			return false
		}
	}
	return len(s.joins.flights) == 1
}

// held is an upstream that answers when the test says so.
type heldUpstream struct {
	*nameserver
	arrived chan asked
	release chan struct{}
}

func holding(t *testing.T, answer script) *heldUpstream {
	h := &heldUpstream{arrived: make(chan asked, 16), release: make(chan struct{})}
	h.nameserver = upstream(t, func(reply func([]byte), q asked) {
		q.wire = slices.Clone(q.wire)
		h.arrived <- q
		go func() {
			<-h.release
			answer(reply, q)
		}()
	}, nil)
	t.Cleanup(func() {
		select {
		case <-h.release:
		default:
			close(h.release)
		}
	})
	return h
}

// Whoever asks the same meanwhile gets the same answer, with its own ID (RFC 5452
// section 5), spelling (RFC 4343) and size (RFC 6891 section 6.2.5), whether or not it
// needs a goroutine.
func TestPassage(t *testing.T) {
	for _, cache := range []int{0, -1} {
		up := holding(t, with(t, nil, bigTXT(3)...))
		s, addr := startWarm(t, Config{Upstreams: []netip.AddrPort{up.addr}, Resend: patience, Timeout: patience, CacheBytes: cache})
		queries := []*dns.Msg{
			withEDNS(query("a.example.org", dns.TypeTXT), 1232),
			withEDNS(query("A.EXAMPLE.org", dns.TypeTXT), 600),
			withEDNS(query("a.Example.Org", dns.TypeTXT), 4096, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}),
			withEDNS(query("a.example.org", dns.TypeTXT), 1232, &dns.EDNS0_LOCAL{Code: optOrigin}), // the long way
		}
		sizes := []int{3, 0, 3, 3}
		var conns []net.Conn
		for i, q := range queries {
			conn := connect(t, "udp", addr)
			send(t, conn, pack(t, q))
			conns = append(conns, conn)
			if i == 0 {
				<-up.arrived
				if !inPassage(s) {
					t.Error("the query has a goroutine")
				}
			}
		}
		waitJoins(t, s, uint64(len(queries)-1))
		close(up.release)
		for i, q := range queries {
			got := unpack(t, receive(t, conns[i]))
			if got.Id != q.Id || got.Question[0].Name != q.Question[0].Name || len(got.Answer) != sizes[i] || got.Truncated != (sizes[i] < 3) {
				t.Errorf("asked %d %s, got %d %s, %d records, TC %t", q.Id, q.Question[0].Name, got.Id, got.Question[0].Name, len(got.Answer), got.Truncated)
			}
		}
		if n := len(up.queries()); n != 1 {
			t.Errorf("asked %d times", n)
		}
		wire := pack(t, queries[0])
		if ready := s.own.newWirePath().answer(nil, wire, loopback, false) != nil; ready != (cache == 0) {
			t.Errorf("kept: %t", ready)
		}
		testenv.Eventually(t, patience, func() error {
			s.joins.mu.Lock()
			defer s.joins.mu.Unlock()
			if len(s.joins.flights) != 0 || s.forwards.taken.Load() != 0 || s.own.forwards.taken.Load() != 0 {
				return fmt.Errorf("left: %d flights, %d turns, %d of the scope", len(s.joins.flights), s.forwards.taken.Load(), s.own.forwards.taken.Load())
			}
			return nil
		})
	}
}

func waitJoins(t *testing.T, s *Server, n uint64) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		if got := s.metrics.joins.Load(); got != n {
			return fmt.Errorf("%d joins", got)
		}
		return nil
	})
}

// A change of the table while a passage is on its way: its answer is not kept.
func TestSetTablePurgesPassages(t *testing.T) {
	up := holding(t, with(t, nil, good))
	s, addr := startWarm(t, Config{Upstreams: []netip.AddrPort{up.addr}, Resend: patience, Timeout: patience})
	q := query("a.example.org", dns.TypeA)
	conn := connect(t, "udp", addr)
	send(t, conn, pack(t, q))
	<-up.arrived
	s.SetTable(table(t, "names: {example.org: [192.0.2.1]}"))
	close(up.release)
	wantGood(t, unpack(t, receive(t, conn)))
	wantGood(t, exchange(t, "udp", addr, q))
	if n := len(up.queries()); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// The end waits for passages, and answers them.
func TestServeDrainsPassages(t *testing.T) {
	up := holding(t, with(t, nil, good))
	s, err := New(Config{Upstreams: []netip.AddrPort{up.addr}, Resend: patience, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	l, addr := listen(t, "127.0.0.1")
	stop := serve(t, s, l)
	warmPorts(t, s)
	conn := connect(t, "udp", addr)
	send(t, conn, pack(t, query("a.example.org", dns.TypeA)))
	<-up.arrived
	if !inPassage(s) {
		t.Error("the query has a goroutine")
	}
	time.AfterFunc(2*grace, func() { close(up.release) })
	stop()
	wantGood(t, unpack(t, receive(t, conn)))
}

// A passage counts as a query that waits.
func TestPassageLimit(t *testing.T) {
	up := holding(t, with(t, nil, good))
	_, addr := startWarm(t, Config{Upstreams: []netip.AddrPort{up.addr}, MaxForwards: 1, Resend: patience, Timeout: patience})
	conn := connect(t, "udp", addr)
	send(t, conn, pack(t, query("a.example.org", dns.TypeA)))
	<-up.arrived
	got := exchange(t, "udp", addr, withEDNS(query("b.example.org", dns.TypeA), 1232))
	if !strings.HasSuffix(fmtEDE(got), "1 queries already wait for upstreams") {
		t.Errorf("got %v", got)
	}
	close(up.release)
	wantGood(t, unpack(t, receive(t, conn)))
}

// What the cache may have something to say about takes the long way.
func TestPassageLeavesTheCacheItsTurn(t *testing.T) {
	s := before(t, Config{}, nil)
	s.chain = s.newChain(&oracle{tb: t, answer: func(req *Request) (*Response, error) {
		switch req.msg.name.String() {
		case "nx.example.org.":
			return says(t, authority(t, dns.RcodeNameError, "example.org. 300 IN SOA a. b. 1 1 1 1 300"))(req)
		case "fails.example.org.":
			return timedOut(req)
		}
		return says(t, nil, req.msg.name.String()+" 1 IN A 192.0.2.1")(req)
	}})
	for _, name := range []string{"nx.example.org", "fails.example.org", "ok.example.org"} {
		askServer(t, s, packetOf(t, query(name, dns.TypeA)))
	}
	path := s.own.newWirePath()
	for name, want := range map[string]bool{
		"nx.example.org": true, "a.nx.example.org": true, "a.b.nx.example.org": true, "fails.example.org": true, "ok.example.org": true,
		"a.ok.example.org": false, "example.org": false, "org": false, ".": false, "other.example.org": false,
	} {
		answer := path.answer(nil, pack(t, query(name, dns.TypeA)), loopback, false)
		if got := !path.missed || s.cache.hasSeen(path.to, &path.q, s.own.number); got != want || answer != nil && !want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
}

// A forwarded query costs one piece of memory, for its name, and a part of what a port
// takes.
func TestPassageAllocatesLittle(t *testing.T) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		mirror(t, conn)
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	_, addr := startWarm(t, Config{Upstreams: []netip.AddrPort{conn.LocalAddr().(*net.UDPAddr).AddrPort()}, CacheBytes: -1, Resend: patience, Timeout: patience})
	wire, buf, client := pack(t, query("0000.example.org", dns.TypeA)), make([]byte, maxWire), connect(t, "udp", addr)
	const window = 8
	ask := func() {
		for i := range window {
			wire[headerLen+4] = '0' + byte(i)
			_, _ = client.Write(wire)
		}
		for range window {
			if _, err := client.Read(buf); err != nil || buf[3]&0xf != dns.RcodeSuccess {
				t.Fatalf("answer %x: %v", buf[:headerLen], err)
			}
		}
	}
	// One, more under the race detector, which makes pools forget, and where the test takes
	// seconds, since ports close meanwhile.
	if allocs := testing.AllocsPerRun(200, ask) / window; allocs > 6 {
		t.Errorf("%v allocations a query", allocs)
	}
}

// A port that closes between its choice and its use costs nobody an answer: a goroutine
// opens another one.
func TestPassageWithoutPort(t *testing.T) {
	up := upstream(t, with(t, nil, good), nil)
	s, err := New(Config{Upstreams: []netip.AddrPort{up.addr}, Resend: patience, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	l, addr := listen(t, "127.0.0.1")
	t.Cleanup(l.close)
	warmPorts(t, s)
	u, err := newUDPSocket(l.UDP[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	loop := (&serving{Server: s, Scope: s.own, work: t.Context()}).newUDPLoop(u)
	p := s.own.peer(up.addr)
	loop.from = p.readyPort(time.Now())
	p.retire()
	conn := connect(t, "udp", addr)
	send(t, conn, pack(t, query("a.example.org", dns.TypeA)))
	b, err := u.Read()
	if err != nil {
		t.Fatal(err)
	}
	if loop.path.begin(time.Now()); !loop.answerReady(b, 0) {
		t.Error("needs a turn")
	}
	wantGood(t, unpack(t, receive(t, conn)))
	testenv.Eventually(t, patience, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.opening > 0 {
			return fmt.Errorf("%d ports are open, and others to come", len(p.ports))
		}
		return nil
	})
	s.own.peers.close()
}

// The patrol that comes when the answer is just being looked at leaves it alone.
func TestPatrolSparesWhatHasCome(t *testing.T) {
	up := holding(t, with(t, nil, good))
	s, addr := startWarm(t, Config{Upstreams: []netip.AddrPort{up.addr}, Resend: patience, Timeout: patience, CacheBytes: -1})
	conn := connect(t, "udp", addr)
	send(t, conn, pack(t, query("a.example.org", dns.TypeA)))
	<-up.arrived
	w := &s.own.passages
	w.mu.Lock()
	p := w.newest
	w.unlink(p)
	w.mu.Unlock()
	p.try.mu.Lock()
	p.delivered = true
	p.try.mu.Unlock()
	p.overdue()
	p.try.mu.Lock()
	given := p.over
	p.try.mu.Unlock()
	if given {
		t.Fatal("the answer is given up")
	}
	close(up.release)
	wantGood(t, unpack(t, receive(t, conn)))
}
