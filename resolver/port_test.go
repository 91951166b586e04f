// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// sighting is what a nameserver, or whoever listens on the way, sees of a query.
type sighting struct {
	id, port uint16
	at       time.Time
}

// sightings forwards n questions and returns what the upstream saw.
func sightings(t *testing.T, n int) []sighting {
	t.Helper()
	var mu sync.Mutex
	var seen []sighting
	answer := with(t, nil, good)
	up := upstream(t, func(reply func([]byte), q asked) {
		mu.Lock()
		seen = append(seen, sighting{binary.BigEndian.Uint16(q.wire), q.from.Port(), time.Now()})
		mu.Unlock()
		answer(reply, q)
	}, nil)
	_, addr := start(t, quick(up.addr))
	for range n {
		q := query("a.example.org", dns.TypeA)
		q.Id = 4242
		if got := exchange(t, "udp", addr, q); got.Id != 4242 {
			t.Fatalf("ID %d came back", got.Id)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	return slices.Clone(seen)
}

// Whoever forges an answer has to guess ID and port (RFC 5452 section 9.2), and what it
// has seen of earlier queries is no help: IDs are spread evenly and do not follow each
// other; a query draws one of several ports, and no port serves long.
func TestIDAndPortAreUnpredictable(t *testing.T) {
	const n = 2400
	seen := sightings(t, n)
	var buckets [16]int
	steps, uses := map[uint16]int{}, map[uint16]int{}
	first, last := map[uint16]time.Time{}, map[uint16]time.Time{}
	same := 0
	for i, s := range seen {
		buckets[s.id>>12]++
		uses[s.port]++
		// One of a handful is seen all the time. The kernel may give a number out again.
		if s.at.Sub(last[s.port]) > portLife {
			first[s.port] = s.at
		}
		last[s.port] = s.at
		if age := s.at.Sub(first[s.port]); age > 2*portLife {
			t.Errorf("port %d was used for %s", s.port, age)
		}
		if i == 0 {
			continue
		}
		steps[s.id-seen[i-1].id]++
		if s.port == seen[i-1].port {
			same++
		}
	}
	// Chi-square with 15 degrees of freedom: 50 is exceeded once in a hundred thousand.
	chi := 0.0
	for _, count := range buckets {
		d := float64(count) - n/16.0
		chi += d * d / (n / 16.0)
	}
	if chi > 50 {
		t.Errorf("IDs are not even: chi-square %.1f, %v", chi, buckets)
	}
	for step, count := range steps {
		if count > 4 {
			t.Errorf("an ID is the one before it and %d, %d times", step, count)
		}
	}
	// Each port takes maxUses; the next query has the same one in a quarter of cases at
	// most.
	if least := n/maxUses - 2; len(uses) < least {
		t.Errorf("%d ports for %d queries", len(uses), n)
	}
	for port, count := range uses {
		if count > 2*maxUses {
			t.Errorf("port %d was used %d times", port, count)
		}
	}
	if same > n/3 {
		t.Errorf("the port was the one before it %d times in %d", same, n)
	}
}

// However many queries come at once to a scope that has no ports, they open no more than
// are drawn from.
func TestBurstOpensFewPorts(t *testing.T) {
	const n = 150 // which the buffer of a socket holds
	up := upstream(t, with(t, nil, good), nil)
	s, err := New(Config{Resend: patience, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	var dials atomic.Int32
	all := make(chan struct{})
	sc := newScope(t, s, ScopeConfig{
		Settings: Settings{Upstreams: []netip.AddrPort{up.addr}},
		Dial: func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
			dials.Add(1)
			<-all
			return dialHere(ctx, network, server)
		},
	})
	l, addr := listen(t, "127.0.0.1")
	serveScope(t, sc, l)
	conn := connect(t, "udp", addr)
	for i := range n {
		send(t, conn, pack(t, query(fmt.Sprintf("n%d.example.org", i), dns.TypeA)))
	}
	testenv.Eventually(t, patience, func() error {
		if waiting := sc.forwards.taken.Load(); waiting < n {
			return fmt.Errorf("%d queries wait", waiting)
		}
		return nil
	})
	begin := time.Now()
	close(all)
	for range n {
		receive(t, conn)
	}
	// On a machine that takes its time others replace them meanwhile.
	lives := 1 + int32(time.Since(begin)/portLife)
	if got := dials.Load(); got > maxPorts*lives {
		t.Errorf("%d ports for a burst of %d queries", got, n)
	}
}

// Ports that nobody uses close, and what waits for an answer keeps its port, with its
// number and ID, beyond that.
func TestPortsClose(t *testing.T) {
	hold := make(chan func())
	answer := with(t, nil, good)
	up := upstream(t, func(reply func([]byte), q asked) {
		q.wire = slices.Clone(q.wire)
		if unpack(t, q.wire).Question[0].Name == "a.example.org." {
			go func() { hold <- func() { answer(reply, q) } }()
			return
		}
		reply(respond(t, q.wire, nil, "b.example.org. 5 IN A 192.0.2.1"))
	}, nil)
	cfg := quick(up.addr)
	cfg.Resend = patience
	s, addr := start(t, cfg)
	slow := connect(t, "udp", addr)
	send(t, slow, pack(t, query("a.example.org", dns.TypeA)))
	finish := <-hold
	for range 3 {
		exchange(t, "udp", addr, query("b.example.org", dns.TypeA))
	}
	p := s.own.peer(up.addr)
	testenv.Eventually(t, patience, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.ports) > 0 || p.sweeper != nil {
			return fmt.Errorf("%d ports are open", len(p.ports))
		}
		return nil
	})
	finish()
	wantGood(t, unpack(t, receive(t, slow)))
}

// Sockets need not be the kernel's own.
func TestDialerOfAnotherKind(t *testing.T) {
	up := upstream(t, with(t, nil, good), with(t, nil, good))
	s, err := New(Config{CacheBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	sc := newScope(t, s, ScopeConfig{
		Settings: Settings{Upstreams: []netip.AddrPort{up.addr}},
		Dial: func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
			conn, err := dialHere(ctx, network, server)
			return struct{ net.Conn }{conn}, err
		},
	})
	l, addr := listen(t, "127.0.0.1")
	serveScope(t, sc, l)
	for _, network := range []string{"udp", "tcp"} {
		wantGood(t, exchange(t, network, addr, query("a.example.org", dns.TypeA)))
	}
}

// What arrives before its query has left is no answer, however well it guesses (RFC 5452
// section 9): whoever sends the query still needs what an answer would free.
func TestAnswerBeforeQuery(t *testing.T) {
	q := query("a.example.org", dns.TypeA)
	req, err := newRequest(packet{wire: pack(t, q)})
	if err != nil {
		t.Fatal(err)
	}
	asks := &try{req: req, peer: new(peer)}
	waiting := pending{idle: func() {}}
	id, _ := waiting.add(asks)
	answer := new(dns.Msg).SetReply(q)
	answer.Id = id
	wire := pack(t, answer)
	if got, _, err := waiting.match(new(message), wire); got != nil || err != nil {
		t.Errorf("before: %v, %v", got, err)
	}
	asks.left.Store(true)
	if got, _, err := waiting.match(new(message), wire); got != asks || err != nil {
		t.Errorf("after: %v, %v", got, err)
	}
}

// An upstream that went down fails all who wait for it at once, on a shared port too.
func TestRefusedPortFailsAll(t *testing.T) {
	l, up := listen(t, "127.0.0.1")
	_ = l.TCP[0].Close()
	cfg := hasty(up)
	cfg.Resend, cfg.Timeout = patience, patience
	_, addr := start(t, cfg)
	conn := connect(t, "udp", addr)
	const n = 3 * maxPorts
	for i := range n { // all of them wait
		send(t, conn, pack(t, withEDNS(query(fmt.Sprintf("n%d.example.org", i), dns.TypeA), 1232)))
	}
	buf := make([]byte, maxWire)
	for range n {
		if _, _, err := l.UDP[0].ReadFromUDP(buf); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.UDP[0].Close()
	// Its ports hear of it with the next query from each.
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range n {
			if got := unpack(t, receive(t, conn)); !strings.Contains(fmtEDE(got), "connection refused") {
				t.Errorf("got %v", got)
			}
		}
	}()
	other := connect(t, "udp", addr)
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
			send(t, other, pack(t, query(fmt.Sprintf("m%d.example.org", i), dns.TypeA)))
			receive(t, other)
		}
	}
}

// A peer that nobody asks is forgotten for one that somebody asks.
func TestPeersAreBounded(t *testing.T) {
	s := before(t, Config{}, nil)
	for i := range 3 * maxPeers {
		s.own.peer(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 53))
	}
	if n := len(s.own.peers.byUp); n != maxPeers {
		t.Errorf("%d peers", n)
	}
}

// A question that nobody has answered is asked again by another port, whose packets may take
// another way and whose number is another guess (RFC 5452 section 9.2).
func TestResendFromAnotherPort(t *testing.T) {
	const n = 30
	var mu sync.Mutex
	copies := make(map[string][]uint16) // the ports that each name came from
	answer := with(t, nil, good)
	up := upstream(t, func(reply func([]byte), q asked) {
		name := unpack(t, q.wire).Question[0].Name
		if strings.HasSuffix(name, ".dnsteer-loop.") {
			return
		}
		mu.Lock()
		copies[name] = append(copies[name], q.from.Port())
		isLast := len(copies[name]) == 3
		mu.Unlock()
		if isLast {
			answer(reply, q)
		}
	}, nil)
	_, addr := start(t, quick(up.addr))
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() { exchange(t, "udp", addr, query(fmt.Sprintf("n%d.example.org", i), dns.TypeA)) })
	}
	clients.Wait()
	mu.Lock()
	defer mu.Unlock()
	for name, ports := range copies {
		if len(ports) < 3 {
			t.Errorf("%s was asked %d times", name, len(ports))
		}
		for i := 1; i < len(ports); i++ {
			if ports[i] == ports[i-1] {
				t.Errorf("%s came twice from port %d", name, ports[i])
			}
		}
	}
	if len(copies) != n {
		t.Errorf("%d names were asked for", len(copies))
	}
}
