// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// warm is a server with a table and a full cache, and an upstream that knows all.
func warm(tb testing.TB) *Server {
	tb.Helper()
	s := before(tb, Config{Search: []string{"svc.cluster.local"}}, nil)
	s.SetTable(table(tb, storyTable))
	s.chain = s.newChain(&oracle{tb: tb, answer: func(req *Request) (res *Response, err error) {
		defer func() { res.tcp = req.TCP }()
		name := req.msg.name.String()
		switch {
		case req.msg.qtype == dns.TypeTXT:
			return says(tb, nil, bigTXT(5)...)(req)
		case req.msg.name.isBelow("\x02nx\x07example\x03net\x00"):
			return says(tb, authority(tb, dns.RcodeNameError, "example.net. 3600 IN SOA a. b. 1 1 1 1 3600"))(req)
		case req.msg.qtype == dns.TypeA && req.edns != nil:
			return says(tb, func(m *dns.Msg) { m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: 4}} }, name+" 3600 IN A 192.0.2.1")(req)
		}
		return says(tb, nil, name+" 3600 IN A 192.0.2.1", name+" 3600 IN AAAA 2001:db8::1")(req)
	}})
	return s
}

// wirePathQueries have an answer on the wire path, those of the cache once somebody has asked.
func wirePathQueries() map[string]*dns.Msg {
	return map[string]*dns.Msg{
		"table":            query("Web.example.org", dns.TypeA),
		"table, NODATA":    query("web.example.org", dns.TypeMX),
		"table, wildcard":  query("x.apps.example.org", dns.TypeA),
		"table, expansion": query("web.example.org.svc.cluster.local", dns.TypeA),
		"table, no name":   query("missing.Cluster2.example.org", dns.TypeA),
		"table, alias":     query("www.example.org", dns.TypeA),
		"table, SRV":       query("_http._tcp.example.org", dns.TypeSRV),
		"table, PTR":       query("10.2.0.192.in-addr.arpa", dns.TypePTR),
		"table, ANY":       query("reviews.bookinfo.cluster2.example.org", dns.TypeANY),
		"table, SOA":       query("cluster2.example.org", dns.TypeSOA),
		"table, EDNS":      withEDNS(query("web.example.org", dns.TypeA), 1232),
		"cache":            query("a.Example.net", dns.TypeAAAA),
		"cache, EDNS":      withEDNS(query("a.example.net", dns.TypeA), 1232),
		"cache, DO":        query("a.example.net", dns.TypeA).SetEdns0(1232, true),
		"cache, cookie":    withEDNS(query("a.example.net", dns.TypeA), 1232, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}),
		"NXDOMAIN":         query("nx.example.net", dns.TypeA),
		"NXDOMAIN, others": query("nx.Example.net", dns.TypeMX),
	}
}

// Both ways give the same octets, and the wire path allocates nothing.
func TestWirePath(t *testing.T) {
	s := warm(t)
	path := s.own.newWirePath()
	for name, q := range wirePathQueries() {
		for _, tcp := range []bool{false, true} {
			wire := pack(t, q)
			if !strings.HasPrefix(name, "table") {
				askWire(t, s, wire, tcp) // what came by UDP is not for TCP
			}
			checkWirePath(t, s, path, wire, tcp, true)
			buf := make([]byte, 0, maxWire)
			if n := testing.AllocsPerRun(100, func() { path.answer(buf, wire, loopback, tcp) }); n != 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	}
}

// Addresses of the table take turns at being the first (RFC 1794), and nothing else in an
// answer changes: not the aliases before them, nor records of other types.
func TestAddressesTakeTurns(t *testing.T) {
	s := before(t, Config{Search: []string{"svc.cluster.local"}}, nil)
	s.SetTable(table(t, `
names:
  many.example.org: {a: [192.0.2.1, 192.0.2.2, 192.0.2.3], aaaa: ["2001:db8::1", "2001:db8::2"], txt: [one, two]}
  www.example.org: {cname: many.example.org}
`))
	path := s.own.newWirePath()
	for _, tc := range []struct {
		name  string
		qtype uint16
		turns int
	}{
		{"many.example.org", dns.TypeA, 3},
		{"Many.example.org", dns.TypeAAAA, 2},
		{"www.example.org", dns.TypeA, 3},
		{"many.example.org.svc.cluster.local", dns.TypeA, 3},
		{"many.example.org", dns.TypeTXT, 1},
		{"many.example.org", dns.TypeANY, 1},
	} {
		for _, q := range []*dns.Msg{query(tc.name, tc.qtype), withEDNS(query(tc.name, tc.qtype), 1232)} {
			wire := pack(t, q)
			want := unpack(t, askWire(t, s, wire, false))
			firsts := make(map[string]int)
			const each = 12
			for range each * tc.turns {
				path.tabled.turn += turnStep // somebody asks for another type between
				got := unpack(t, path.answer(nil, wire, loopback, false)[2:])
				at := slices.IndexFunc(got.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeCNAME })
				firsts[got.Answer[at].String()]++
				// Turned back, it is the answer of the table.
				rest := got.Answer[len(want.Answer)-tc.turns:]
				for range tc.turns {
					if rest[0].String() != want.Answer[len(want.Answer)-tc.turns].String() {
						rest = append(rest[1:], rest[0])
					}
				}
				got.Answer = append(got.Answer[:len(want.Answer)-tc.turns:len(want.Answer)-tc.turns], rest...)
				if diff := cmp.Diff(want.String(), got.String()); diff != "" {
					t.Fatalf("%s %s: (-want +got)\n%s", tc.name, dns.TypeToString[tc.qtype], diff)
				}
			}
			for first, n := range firsts {
				if len(firsts) != tc.turns || n < each-2 || n > each+2 {
					t.Errorf("%s %s: %s is the first of %d, %d times", tc.name, dns.TypeToString[tc.qtype], first, len(firsts), n)
				}
			}
		}
	}
}

// What changes the answer, or is a mistake, goes the long way.
func TestWirePathKnowsItsLimits(t *testing.T) {
	s := warm(t)
	path := s.own.newWirePath()
	queries := private()
	queries["origin"] = withEDNS(query("web.example.org", dns.TypeA), 1232, &dns.EDNS0_LOCAL{Code: optOrigin})
	queries["too large"] = withEDNS(query("big.example.net", dns.TypeTXT), 512)
	queries["below NXDOMAIN"] = query("a.nx.example.net", dns.TypeA)
	askWire(t, s, pack(t, query("nx.example.net", dns.TypeA)), false)
	for name, q := range queries {
		wire := pack(t, q)
		askWire(t, s, wire, false)
		if path.answer(nil, wire, loopback, false) != nil {
			t.Errorf("%s: answered on the wire path", name)
		}
	}
	// A table that changes takes its answers back at once.
	wire := pack(t, query("web.example.org", dns.TypeA))
	if path.answer(nil, wire, loopback, false) == nil {
		t.Fatal("the table does not answer")
	}
	s.SetTable(nil)
	if path.answer(nil, wire, loopback, false) != nil {
		t.Error("the old table answers")
	}
	// And one that comes wins over the cache.
	askWire(t, s, wire, false)
	if path.answer(nil, wire, loopback, false) == nil {
		t.Fatal("not in the cache")
	}
	s.SetTable(table(t, storyTable))
	if got := path.answer(nil, wire, loopback, false); got == nil || !unpack(t, got[2:]).Authoritative {
		t.Error("the cache hides the table")
	}
}

func askWire(tb testing.TB, s *Server, wire []byte, tcp bool) []byte {
	tb.Helper()
	var out []byte
	in := packet{wire: wire, client: netip.MustParseAddrPort("127.0.0.1:5353"), local: loopback, tcp: tcp}
	if err := s.own.answer(tb.Context(), in, func(wire []byte) error { out = wire; return nil }); err != nil {
		tb.Fatal(err)
	}
	return out
}

// checkWirePath compares both ways. Between two looks a second may have passed.
func checkWirePath(tb testing.TB, s *Server, path *wirePath, wire []byte, tcp, must bool) {
	tb.Helper()
	path.begin(time.Now())
	path.tabled.turn = 0 // the order of the table
	short := bytes.Clone(path.answer(nil, wire, loopback, tcp))
	if short == nil {
		if must {
			tb.Errorf("%x: not answered on the wire path", wire)
		}
		return
	}
	long := askWire(tb, s, wire, tcp)
	path.begin(time.Now())
	path.tabled.turn = 0
	if !bytes.Equal(short[2:], long) && !bytes.Equal(path.answer(nil, wire, loopback, tcp)[2:], long) {
		tb.Errorf("%x:\nwire path %x\nlong way  %x", wire, short[2:], long)
	}
	if want := len(short) - 2; want != int(short[0])<<8|int(short[1]) {
		tb.Errorf("%d octets, the length says %x", want, short[:2])
	}
}

// FuzzWirePath asks anything both ways: the same octets, or the long way alone.
func FuzzWirePath(f *testing.F) {
	for _, q := range wirePathQueries() {
		f.Add(pack(f, q), false)
		f.Add(pack(f, q), true)
	}
	for _, q := range private() {
		f.Add(pack(f, q), false)
	}
	s := warm(f)
	path := s.own.newWirePath()
	f.Fuzz(func(t *testing.T, wire []byte, tcp bool) {
		if len(wire) > 512 || path.answer(nil, wire, loopback, tcp) == nil {
			if len(wire) > 512 || !path.q.read(wire, tcp) {
				return
			}
			askWire(t, s, wire, tcp)
		}
		checkWirePath(t, s, path, wire, tcp, false)
	})
}

// The receive buffer grows, and one that is larger already stays: the worker that
// serves has no privilege to make it so again.
func TestReceiveBufferNeverShrinks(t *testing.T) {
	l, _ := listen(t, "127.0.0.1")
	t.Cleanup(l.close)
	raw, err := l.UDP[0].SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	buffer := func(set int) (size int) {
		_ = raw.Control(func(fd uintptr) {
			if set > 0 {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, set)
			}
			size, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		})
		return size
	}
	for _, set := range []int{4096, 2 * receiveBuffer} {
		before := buffer(set)
		if _, err := newUDPSocket(l.UDP[0], nil); err != nil {
			t.Fatal(err)
		}
		if after := buffer(0); after < max(before, 2*receiveBuffer) {
			t.Errorf("%d octets became %d", before, after)
		}
	}
}

// What the wire path costs without sockets.
func BenchmarkWirePath(b *testing.B) {
	s := warm(b)
	path := s.own.newWirePath()
	for _, name := range []string{"table", "table, NODATA", "cache", "cache, EDNS", "NXDOMAIN"} {
		b.Run(name, func(b *testing.B) {
			wire := pack(b, wirePathQueries()[name])
			askWire(b, s, wire, false)
			b.ReportAllocs()
			buf := make([]byte, 0, maxWire)
			for b.Loop() {
				if path.answer(buf, wire, loopback, false) == nil {
					b.Fatal("not ready")
				}
			}
		})
	}
}
