// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// oracle is an end of the chain in a bubble of false time: each question takes a
// while, and its answer is the test's.
type oracle struct {
	tb     testing.TB
	takes  time.Duration
	answer func(req *Request) (*Response, error)

	mu   sync.Mutex // guards seen
	seen []*Request
}

func (o *oracle) Exchange(ctx context.Context, req *Request) (*Response, error) {
	o.mu.Lock()
	o.seen = append(o.seen, req)
	o.mu.Unlock()
	select {
	case <-time.After(o.takes):
		return o.answer(req)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (o *oracle) asked() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.seen)
}

// says makes an answer of records in the form of zone files.
func says(tb testing.TB, change func(*dns.Msg), records ...string) func(*Request) (*Response, error) {
	return func(req *Request) (*Response, error) {
		m, err := parseMessage(respond(tb, outgoing(nil, req, 7, req.edns), change, records...))
		if err != nil {
			return nil, err
		}
		up := netip.MustParseAddrPort("192.0.2.53:53")
		if len(req.upstreams) > 0 {
			up = req.upstreams[0].addr
		}
		return (&attempt{upstream: &peer{up: plain(up)}, network: "udp", reply: m, took: time.Millisecond}).response(), nil
	}
}

// before puts the stages of a server in front of an end.
func before(tb testing.TB, cfg Config, end Exchanger) *Server {
	tb.Helper()
	if cfg.Upstreams == nil && cfg.Origin == nil {
		cfg.Upstreams = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
	}
	s, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	s.chain = s.newChain(end)
	return s
}

// packetOf is a query as it arrives on loopback.
func packetOf(tb testing.TB, m *dns.Msg) packet {
	return packet{wire: pack(tb, m), client: netip.MustParseAddrPort("127.0.0.1:5353"), local: netip.MustParseAddr("127.0.0.1")}
}

// askServer is a query through server.go, without sockets.
func askServer(tb testing.TB, s *Server, in packet) *dns.Msg {
	tb.Helper()
	var out *dns.Msg
	err := s.own.answer(tb.Context(), in, func(wire []byte) error {
		out = unpack(tb, wire)
		return nil
	})
	if err != nil || out == nil {
		tb.Fatalf("answer: %v, %v", out, err)
	}
	return out
}

// Identical questions in flight cost one (RFC 5452 section 5), and each client has
// the answer with its own ID, spelling (RFC 4343) and size (RFC 6891 section 6.2.5).
func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := &oracle{tb: t, takes: time.Second, answer: says(t, nil, bigTXT(3)...)}
		s := before(t, Config{CacheBytes: -1}, end)
		queries := []*dns.Msg{
			withEDNS(query("a.example.org", dns.TypeTXT), 1232),
			withEDNS(query("A.EXAMPLE.org", dns.TypeTXT), 600),
			withEDNS(query("a.Example.Org", dns.TypeTXT), 4096, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}),
		}
		sizes := []int{3, 0, 3} // records that each client can take: whole RRsets
		var clients sync.WaitGroup
		for i, q := range queries {
			clients.Go(func() {
				got := askServer(t, s, packetOf(t, q))
				if got.Id != q.Id || got.Question[0].Name != q.Question[0].Name {
					t.Errorf("asked %d %s, got %d %s", q.Id, q.Question[0].Name, got.Id, got.Question[0].Name)
				}
				if len(got.Answer) != sizes[i] || got.Truncated != (sizes[i] < 3) {
					t.Errorf("%d records, TC %t", len(got.Answer), got.Truncated)
				}
			})
		}
		clients.Wait()
		if n := end.asked(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		askServer(t, s, packetOf(t, queries[0]))
		if n := end.asked(); n != 2 {
			t.Errorf("asked %d times with another one after the first", n)
		}
	})
}

// distinct are queries of which no two may share an answer.
func distinct() map[string]*dns.Msg {
	a := func(change func(*dns.Msg)) *dns.Msg {
		m := query("a.example.org", dns.TypeA)
		change(m)
		return m
	}
	return map[string]*dns.Msg{
		"plain":   a(func(*dns.Msg) {}),
		"name":    query("b.example.org", dns.TypeA),
		"type":    query("a.example.org", dns.TypeAAAA),
		"unknown": query("a.example.org", 65280),
		"class":   a(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
		"RD":      a(func(m *dns.Msg) { m.RecursionDesired = false }),
		"AD":      a(func(m *dns.Msg) { m.AuthenticatedData = true }), // RFC 6840 section 5.7
		"CD":      a(func(m *dns.Msg) { m.CheckingDisabled = true }),  // RFC 4035 section 3.2.2
		"EDNS":    a(func(m *dns.Msg) { m.SetEdns0(1232, false) }),
		"DO":      a(func(m *dns.Msg) { m.SetEdns0(1232, true) }), // RFC 4035 section 3.2.1
	}
}

// private are queries that share with nobody, not even with their equals.
func private() map[string]*dns.Msg {
	a := func(change func(*dns.Msg)) *dns.Msg {
		m := withEDNS(query("a.example.org", dns.TypeA), 1232)
		change(m)
		return m
	}
	option := func(o dns.EDNS0) func(*dns.Msg) {
		return func(m *dns.Msg) { m.IsEdns0().Option = []dns.EDNS0{o} }
	}
	return map[string]*dns.Msg{
		"STATUS":        a(func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }),
		"UPDATE":        new(dns.Msg).SetUpdate("example.org."),
		"NOTIFY":        new(dns.Msg).SetNotify("example.org."),
		"AXFR":          query("example.org", dns.TypeAXFR),
		"IXFR":          query("example.org", dns.TypeIXFR),
		"TKEY":          query("example.org", dns.TypeTKEY),
		"class ANY":     a(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }),
		"client subnet": a(option(&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{192, 0, 2, 0}})),
		"NSID":          a(option(&dns.EDNS0_NSID{Code: dns.EDNS0NSID})),
		"unknown":       a(option(&dns.EDNS0_LOCAL{Code: 65100, Data: []byte("x")})),
		"EDNS flag":     a(func(m *dns.Msg) { m.IsEdns0().Hdr.Ttl = 1 << 14 }),
		"Z":             a(func(m *dns.Msg) { m.Zero = true }),
		"a record": a(func(m *dns.Msg) {
			m.Extra = append(m.Extra, &dns.A{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: []byte{192, 0, 2, 1}})
		}),
		"TSIG": a(func(m *dns.Msg) { m.SetTsig("key.example.org.", dns.HmacSHA256, 300, 0) }),
	}
}

// What changes the answer is in the key (RFC 5625 section 4.1; RFC 4035 section 3.2 for
// DO and CD, RFC 6840 section 5.7 for AD), and what the key
// cannot hold is asked each time: other operations, transfers, TSIG (RFC 8945),
// client subnets (RFC 7871), unknown options (RFC 6891 section 6.1.2).
func TestJoinKeepsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := &oracle{tb: t, takes: time.Second, answer: func(*Request) (*Response, error) { return nil, errors.New("no answer") }}
		s := before(t, Config{CacheBytes: -1}, end)
		var clients sync.WaitGroup
		want := 0
		launch := func(in packet) {
			clients.Go(func() { askServer(t, s, in) })
		}
		for _, q := range distinct() {
			want++
			launch(packetOf(t, q))
			launch(packetOf(t, q))
		}
		tcp := packetOf(t, distinct()["plain"])
		tcp.tcp = true
		want++
		launch(tcp)
		for name, q := range private() {
			if name == "AXFR" || name == "TSIG" {
				q.Id = 7
			}
			want += 2
			launch(packetOf(t, q))
			launch(packetOf(t, q))
		}
		clients.Wait()
		if n := end.asked(); n != want {
			t.Errorf("asked %d times, want %d", n, want)
		}
	})
}

// A flight survives the client that began it, and ends with the last one.
func TestJoinOutlivesTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := &oracle{tb: t, takes: 2 * time.Second, answer: says(t, nil, good)}
		s := before(t, Config{CacheBytes: -1}, end)
		req, err := newRequest(packetOf(t, query("a.example.org", dns.TypeA)))
		if err != nil {
			t.Fatal(err)
		}
		req.scope = s.own
		deadlines := []time.Duration{time.Second, 5 * time.Second, 1500 * time.Millisecond}
		var got []string
		var mu sync.Mutex
		var clients sync.WaitGroup
		for _, d := range deadlines {
			clients.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), d)
				defer cancel()
				start := time.Now()
				_, err := s.chain.Exchange(ctx, req)
				mu.Lock()
				defer mu.Unlock()
				got = append(got, time.Since(start).String()+" "+fmtErr(err))
			})
			synctest.Wait()
		}
		clients.Wait()
		slices.Sort(got)
		want := []string{"1.5s context deadline exceeded", "1s context deadline exceeded", "2s ok"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if n := end.asked(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		// Nobody waits: the upstream is left alone, and the next one asks anew.
		ctx, cancel := context.WithCancel(t.Context())
		clients.Go(func() { _, _ = s.chain.Exchange(ctx, req) })
		synctest.Wait()
		cancel()
		synctest.Wait()
		if _, err := s.chain.Exchange(t.Context(), req); err != nil || end.asked() != 3 {
			t.Errorf("%v after %d", err, end.asked())
		}
	})
}

func fmtErr(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}

// Answers of different nameservers never mix.
func TestJoinByOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := &oracle{tb: t, takes: time.Second, answer: says(t, nil, good)}
		s := before(t, Config{CacheBytes: -1, Origin: func(local netip.Addr) (netip.Addr, bool) { return local.Next(), true }}, end)
		var clients sync.WaitGroup
		for _, local := range []string{"127.53.0.1", "127.53.0.2", "127.53.0.1"} {
			in := packetOf(t, query("a.example.org", dns.TypeA))
			in.local = netip.MustParseAddr(local)
			clients.Go(func() { askServer(t, s, in) })
		}
		clients.Wait()
		if n := end.asked(); n != 2 {
			t.Errorf("asked %d times, want once for each nameserver", n)
		}
	})
}

// pass lets time pass in a bubble.
func pass(d time.Duration) { <-time.After(d) }
