// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

const authorityTable = `
ttl: 20
authority: [east.example.org, 2.0.192.in-addr.arpa]
names:
  web.shop.svc.east.example.org: {a: [192.0.2.1], ttl: 10}
  www.east.example.org: {cname: missing.shop.svc.east.example.org}
  www.example.org: {cname: missing.east.example.org}
  "*.apps.east.example.org": [192.0.2.2]
`

// Where the table is the authority, what it lacks does not exist and nobody is asked:
// RFC 1034 section 4.3.2, RFC 2308 sections 2.1 and 3, RFC 4592 section 2.2.2.
func TestAuthority(t *testing.T) {
	up := upstream(t, func(reply func([]byte), q asked) {
		reply(respond(t, q.wire, nil, unpack(t, q.wire).Question[0].Name+" 9 IN A 198.51.100.9"))
	}, nil)
	routed := []Upstream{plain(up.addr)}
	s, addr := start(t, Config{
		Upstreams: []netip.AddrPort{up.addr}, Search: []string{"shop.svc.east.example.org", "east.example.org"},
		Routes: []Route{{Suffix: "moved.east.example.org", Upstreams: routed}, {Suffix: "east.example.org", Upstreams: routed}},
	})
	s.SetTable(table(t, authorityTable))

	none := func(owner string, records ...string) answered {
		return answered{"NXDOMAIN", true, records, soa(owner, "20")}
	}
	noData := func(owner, ttl string) answered { return answered{"NOERROR", true, nil, soa(owner, ttl)} }
	forwarded := func(name string) answered {
		return answered{"NOERROR", false, []string{name + " 9 IN A 198.51.100.9"}, nil}
	}
	for _, tc := range []struct {
		name  string
		ask   string
		qtype uint16
		want  answered
	}{
		{"a name that is there", "web.shop.svc.east.example.org.", dns.TypeA, answered{"NOERROR", true, []string{"web.shop.svc.east.example.org. 10 IN A 192.0.2.1"}, nil}},
		{"another type of it", "web.shop.svc.east.example.org.", dns.TypeMX, noData("east.example.org.", "10")},
		{"a name that is not", "missing.east.example.org.", dns.TypeA, none("east.example.org.")},
		{"below one that is", "x.web.shop.svc.east.example.org.", dns.TypeA, none("east.example.org.")},
		{"in the client's case", "Missing.EAST.example.Org.", dns.TypeHTTPS, none("EAST.example.Org.")},
		{"an empty non-terminal", "svc.east.example.org.", dns.TypeA, noData("east.example.org.", "20")},
		{"one above a wildcard", "apps.east.example.org.", dns.TypeA, noData("east.example.org.", "20")},
		{"a wildcard", "x.apps.east.example.org.", dns.TypeA, answered{"NOERROR", true, []string{"x.apps.east.example.org. 20 IN A 192.0.2.2"}, nil}},
		{"the apex", "east.example.org.", dns.TypeA, noData("east.example.org.", "20")},
		{"its SOA", "East.example.org.", dns.TypeSOA, answered{"NOERROR", true, soa("East.example.org.", "20"), nil}},
		{"all of it", "east.example.org.", dns.TypeANY, answered{"NOERROR", true, soa("east.example.org.", "20"), nil}},
		{"SOA below the apex", "svc.east.example.org.", dns.TypeSOA, noData("east.example.org.", "20")},
		{"an alias to nothing", "www.example.org.", dns.TypeA, none("east.example.org.", "www.example.org. 20 IN CNAME missing.east.example.org.")},
		{"an alias inside", "WWW.east.example.org.", dns.TypeAAAA, none("east.example.org.", "WWW.east.example.org. 20 IN CNAME missing.shop.svc.east.example.org.")},
		{"an expansion of a foreign name", "www.example.com.shop.svc.east.example.org.", dns.TypeA, none("east.example.org.")},
		{"an expansion of a name of the table", "www.example.org.east.example.org.", dns.TypeCNAME, answered{"NOERROR", true,
			[]string{"www.example.org.east.example.org. 20 IN CNAME www.example.org."}, nil}},
		{"PTR", "1.2.0.192.in-addr.arpa.", dns.TypePTR, answered{"NOERROR", true, []string{"1.2.0.192.in-addr.arpa. 10 IN PTR web.shop.svc.east.example.org."}, nil}},
		{"no PTR", "9.2.0.192.in-addr.arpa.", dns.TypePTR, none("2.0.192.in-addr.arpa.")},
		{"above the authority", "example.org.", dns.TypeA, forwarded("example.org.")},
		{"beside it", "xeast.example.org.", dns.TypeA, forwarded("xeast.example.org.")},
		{"at a route below", "moved.east.example.org.", dns.TypeA, forwarded("moved.east.example.org.")},
		{"below a route below", "x.moved.east.example.org.", dns.TypeA, forwarded("x.moved.east.example.org.")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i, network := range []string{"udp", "udp", "tcp"} { // the second time it is ready
				if !tc.want.AA && i > 0 {
					continue
				}
				before := len(up.queries())
				if diff := cmp.Diff(tc.want, view(exchange(t, network, addr, query(tc.ask, tc.qtype)))); diff != "" {
					t.Errorf("%s (-want +got):\n%s", network, diff)
				}
				if got := len(up.queries()) - before; (got > 0) == tc.want.AA {
					t.Errorf("%s: the upstream was asked %d times", network, got)
				}
			}
		})
	}
	// What is no lookup of a name is not for a table to deny.
	for name, q := range map[string]*dns.Msg{"another class": {Question: []dns.Question{{Name: "x.east.example.org.", Qtype: dns.TypeA, Qclass: dns.ClassCHAOS}}},
		"an update": new(dns.Msg).SetUpdate("east.example.org.")} {
		before := len(up.queries())
		exchange(t, "udp", addr, q)
		if len(up.queries()) == before {
			t.Errorf("%s does not reach the upstream", name)
		}
	}
	// An answer says why.
	got, err := Query(t.Context(), addr, "missing.east.example.org", "A", false)
	if err != nil || got.Rcode != "NXDOMAIN" || got.Origin != "table names.yaml:3 (authority)" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Of two scopes with the same search list, one may have a route below an authority: what
// is ready for the other is not for it.
func TestAuthorityByRoutes(t *testing.T) {
	s := before(t, Config{Search: []string{"east.example.org"}}, nil)
	s.SetTable(table(t, authorityTable))
	routed, err := s.NewScope(ScopeConfig{Settings: Settings{Routes: []Route{{Suffix: "moved.east.example.org", Upstreams: []Upstream{plain(netip.MustParseAddrPort("192.0.2.53:53"))}}}}})
	if err != nil {
		t.Fatal(err)
	}
	wire := pack(t, query("x.moved.east.example.org", dns.TypeA))
	if got := unpack(t, askWire(t, s, wire, false)); got.Rcode != dns.RcodeNameError {
		t.Errorf("without a route: %v", got)
	}
	if s.own.newWirePath().answer(nil, wire, loopback, false) == nil {
		t.Error("without a route: not ready")
	}
	if reply := routed.newWirePath().answer(nil, wire, loopback, false); reply != nil {
		t.Errorf("with a route: %v", unpack(t, reply[2:]))
	}
}

// Authorities of layers come and go at once: with what is ready, and with what the cache
// holds below them. Names that come or go below one change its answers.
func TestSetAuthority(t *testing.T) {
	all := NewNames()
	first, second := all.AddLayer("first"), all.AddLayer("second")
	from := first.Origin(func() string { return "test" })
	nx := says(t, authority(t, dns.RcodeNameError, ". 300 IN SOA a. b. 1 1 1 1 300"))
	bubble(t, Config{}, nx, func(t *testing.T, s *Server, end *oracle) {
		defer all.Follow(s)()
		path := s.own.newWirePath()
		const name = "x.y.east.example.org"
		// said is the answer, and whether somebody was asked for it.
		said := func() string {
			t.Helper()
			before := end.asked()
			wire := pack(t, query(name, dns.TypeA))
			got := unpack(t, askWire(t, s, wire, false))
			words := fmt.Sprint(dns.RcodeToString[got.Rcode], " ", len(got.Answer))
			for _, rr := range got.Ns {
				words += fmt.Sprint(" ", rr.Header().Name, " ", rr.Header().Ttl)
			}
			if reply := path.answer(nil, wire, loopback, false); reply != nil {
				if ready := unpack(t, reply[2:]); ready.String() != got.String() {
					t.Errorf("ready is %v, want %v", ready, got)
				}
			}
			if end.asked() > before {
				words += ", asked"
			}
			return words
		}
		apply := func(l *Layer, name string, addrs ...netip.Addr) func() {
			return func() {
				if err := l.Apply(slices.Values([]Name{{Name: name, TTL: 5, From: l.Origin(func() string { return "test" }), Addrs: addrs}})); err != nil {
					t.Fatal(err)
				}
			}
		}
		set := func(l *Layer, all ...Authority) func() {
			return func() {
				if err := l.SetAuthority(all...); err != nil {
					t.Fatal(err)
				}
			}
		}
		east := Authority{Suffix: "East.example.org.", TTL: 7, From: from}
		for _, step := range []struct {
			name string
			do   func()
			want string
		}{
			{"nobody is the authority", func() {}, "NXDOMAIN 0 . 300, asked"},
			{"it is in the cache", func() {}, "NXDOMAIN 0 . 300"},
			{"the second layer is", set(second, east), "NXDOMAIN 0 east.example.org. 7"},
			{"another TTL", set(second, Authority{Suffix: "east.example.org", TTL: 3, From: from}), "NXDOMAIN 0 east.example.org. 3"},
			{"another one below", set(first, Authority{Suffix: "y.east.example.org", TTL: 9, From: from}), "NXDOMAIN 0 y.east.example.org. 9"},
			{"a name below", apply(first, "a."+name, loopback), "NOERROR 0 y.east.example.org. 9"},
			{"the name", apply(second, name, loopback), "NOERROR 1"},
			{"the name goes", apply(second, name), "NOERROR 0 y.east.example.org. 9"},
			{"the name below goes", apply(first, "a."+name), "NXDOMAIN 0 y.east.example.org. 9"},
			{"that authority goes", set(first), "NXDOMAIN 0 east.example.org. 3"},
			{"both have it", set(first, Authority{Suffix: "east.example.org", TTL: 9, From: from}), "NXDOMAIN 0 east.example.org. 9"},
			{"the first lets go", set(first), "NXDOMAIN 0 east.example.org. 3"},
			{"the other too", set(second), "NXDOMAIN 0 . 300, asked"},
		} {
			step.do()
			if got := said(); got != step.want {
				t.Errorf("%s: %s, want %s", step.name, got, step.want)
			}
		}
		if left := all.Table(); left.names != nil || left.splitArpa != 0 || len(left.apexes) != 0 {
			t.Errorf("the empty table is %+v", left)
		}
	})
	err := first.SetAuthority(Authority{Suffix: "a..b", From: from}, Authority{Suffix: "example.net", From: from})
	if err == nil || err.Error() != `first: authority: name "a..b": empty label` || all.Table().apexes[mustName("example.net")] == nil {
		t.Errorf("error %v", err)
	}
	warnings, err := first.SetFiles(yamlSource("authority: [example.com]\n"))
	if err != nil || len(warnings) > 0 || len(all.Table().apexes) != 1 || all.Table().apexes[mustName("example.com")] == nil {
		t.Errorf("files: %v, %v", err, warnings)
	}
}

// The first authority makes exist what has only others below it, however many names there
// are; whole tables that replace each other are told apart by their authorities too.
func TestAuthorityOfTables(t *testing.T) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "  a.n%d.east.example.org: [192.0.2.1]\n", i)
	}
	names := "names:\n" + text.String()
	with, without := table(t, "authority: [east.example.org]\n"+names), table(t, names)
	for i := range 1000 {
		if at := with.find([]byte(mustName(fmt.Sprintf("n%d.east.example.org", i)))); at.ok() || !at.exists {
			t.Fatalf("n%d is %+v", i, at)
		}
	}
	below, beside := mustName("x.east.example.org"), mustName("x.example.org")
	if !differ(with, without, below) || differ(with, without, beside) || differ(with, with, below) {
		t.Error("tables that differ in their authority do not")
	}
}
