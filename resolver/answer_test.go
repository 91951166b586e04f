// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

const storyTable = `
ttl: 20
names:
  reviews.bookinfo.cluster2.example.org: [192.0.2.10, "2001:db8::10"]
  www.example.org: {cname: web.example.org, ttl: 60}
  web.example.org: {a: [192.0.2.1, 192.0.2.2], txt: ["v=1", 'back\slash']}
  out.example.org: {cname: elsewhere.example.org}
  gone.example.org: {cname: nx.example.org}
  _http._tcp.example.org:
    srv: [{target: web.example.org, port: 80, weight: 5}, {target: far.example.org, port: 81, priority: 1}]
  "*.apps.example.org": [192.0.2.20]
  deep.blue.apps.example.org: [192.0.2.21]
authority: [cluster2.example.org]
`

// answered is what a test looks at in a reply.
type answered struct {
	Rcode             string
	AA                bool
	Answer, Authority []string
}

func view(m *dns.Msg) answered {
	return answered{dns.RcodeToString[m.Rcode], m.Authoritative, lines(turnedBack(m.Answer)), lines(m.Ns)}
}

// turnedBack puts addresses that take turns in the order of their octets.
func turnedBack(rrs []dns.RR) []dns.RR {
	for i := 0; i < len(rrs); {
		first, n := rrs[i].Header(), 1
		for i+n < len(rrs) && rrs[i+n].Header().Rrtype == first.Rrtype && rrs[i+n].Header().Name == first.Name {
			n++
		}
		if first.Rrtype == dns.TypeA || first.Rrtype == dns.TypeAAAA {
			slices.SortFunc(rrs[i:i+n], func(a, b dns.RR) int { return strings.Compare(a.String(), b.String()) })
		}
		i += n
	}
	return rrs
}

func soa(name, ttl string) []string {
	return []string{name + " " + ttl + " IN SOA dnsteer.invalid. hostmaster.dnsteer.invalid. 1 3600 600 86400 " + ttl}
}

// Answers from the table: RFC 1034 section 4.3.2, RFC 2308 (NODATA), RFC 4592
// (wildcards), RFC 8482 (ANY), RFC 4343 (case), RFC 2782 (SRV).
func TestTableAnswers(t *testing.T) {
	up := upstream(t, func(reply func([]byte), q asked) {
		m := unpack(t, q.wire)
		name := m.Question[0].Name
		switch name {
		case "elsewhere.example.org.":
			reply(respond(t, q.wire, nil, name+" 7 IN A 198.51.100.7"))
		case "nx.example.org.":
			reply(respond(t, q.wire, func(r *dns.Msg) { r.Rcode = dns.RcodeNameError }))
		default:
			reply(respond(t, q.wire, nil, name+" 9 IN A 198.51.100.9"))
		}
	}, nil)
	s, addr := start(t, Config{Upstreams: []netip.AddrPort{up.addr}, Search: []string{"ns.svc.cluster.local", "svc.cluster.local.", "."}})
	s.SetTable(table(t, storyTable))

	ok := func(aa bool, records ...string) answered { return answered{"NOERROR", aa, records, nil} }
	forwarded := func(name string) answered { return ok(false, name+" 9 IN A 198.51.100.9") }
	for _, tc := range []struct {
		name  string
		ask   string
		qtype uint16
		want  answered
	}{
		{"A", "reviews.bookinfo.cluster2.example.org.", dns.TypeA, ok(true, "reviews.bookinfo.cluster2.example.org. 20 IN A 192.0.2.10")},
		{"AAAA", "reviews.bookinfo.cluster2.example.org.", dns.TypeAAAA, ok(true, "reviews.bookinfo.cluster2.example.org. 20 IN AAAA 2001:db8::10")},
		{"the client's case", "weB.eXample.org.", dns.TypeA, ok(true, "weB.eXample.org. 20 IN A 192.0.2.1", "weB.eXample.org. 20 IN A 192.0.2.2")},
		{"NODATA", "web.example.org.", dns.TypeAAAA, answered{"NOERROR", true, nil, soa("web.example.org.", "20")}},
		{"NODATA for HTTPS", "web.example.org.", dns.TypeHTTPS, answered{"NOERROR", true, nil, soa("web.example.org.", "20")}},
		{"TXT", "web.example.org.", dns.TypeTXT, ok(true, `web.example.org. 20 IN TXT "v=1"`, `web.example.org. 20 IN TXT "back\\slash"`)},
		{"ANY", "web.example.org.", dns.TypeANY, ok(true, "web.example.org. 20 IN A 192.0.2.1", "web.example.org. 20 IN A 192.0.2.2",
			`web.example.org. 20 IN TXT "v=1"`, `web.example.org. 20 IN TXT "back\\slash"`)},
		{"alias", "www.example.org.", dns.TypeA, ok(true, "www.example.org. 60 IN CNAME web.example.org.",
			"web.example.org. 20 IN A 192.0.2.1", "web.example.org. 20 IN A 192.0.2.2")},
		{"alias itself", "www.example.org.", dns.TypeCNAME, ok(true, "www.example.org. 60 IN CNAME web.example.org.")},
		{"alias, NODATA behind", "www.example.org.", dns.TypeAAAA, answered{"NOERROR", true,
			[]string{"www.example.org. 60 IN CNAME web.example.org."}, soa("web.example.org.", "20")}},
		{"alias out of the table", "out.example.org.", dns.TypeA, ok(true, "out.example.org. 20 IN CNAME elsewhere.example.org.", "elsewhere.example.org. 7 IN A 198.51.100.7")},
		{"alias to nothing", "gone.example.org.", dns.TypeA, answered{"NXDOMAIN", true, []string{"gone.example.org. 20 IN CNAME nx.example.org."}, nil}},
		{"SRV", "_http._tcp.example.org.", dns.TypeSRV, ok(true, "_http._tcp.example.org. 20 IN SRV 0 5 80 web.example.org.",
			"_http._tcp.example.org. 20 IN SRV 1 0 81 far.example.org.")},
		{"PTR", "10.2.0.192.in-addr.arpa.", dns.TypePTR, ok(true, "10.2.0.192.in-addr.arpa. 20 IN PTR reviews.bookinfo.cluster2.example.org.")},
		{"PTR v6", "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", dns.TypePTR,
			ok(true, "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 20 IN PTR reviews.bookinfo.cluster2.example.org.")},
		{"no PTR from a wildcard", "20.2.0.192.in-addr.arpa.", dns.TypeA, forwarded("20.2.0.192.in-addr.arpa.")},
		{"wildcard", "any.apps.example.org.", dns.TypeA, ok(true, "any.apps.example.org. 20 IN A 192.0.2.20")},
		{"wildcard, two labels", "a.b.apps.example.org.", dns.TypeA, ok(true, "a.b.apps.example.org. 20 IN A 192.0.2.20")},
		{"wildcard, NODATA", "any.apps.example.org.", dns.TypeMX, answered{"NOERROR", true, nil, soa("any.apps.example.org.", "20")}},
		{"not the wildcard's parent", "apps.example.org.", dns.TypeA, forwarded("apps.example.org.")},
		{"empty non-terminal", "blue.apps.example.org.", dns.TypeA, forwarded("blue.apps.example.org.")},
		{"closest encloser stops the wildcard", "x.blue.apps.example.org.", dns.TypeA, forwarded("x.blue.apps.example.org.")},
		{"below a name", "x.web.example.org.", dns.TypeA, forwarded("x.web.example.org.")},
		{"not in the table", "other.example.org.", dns.TypeA, forwarded("other.example.org.")},
		{"search", "web.example.org.ns.svc.cluster.local.", dns.TypeA, ok(true, "web.example.org.ns.svc.cluster.local. 20 IN CNAME web.example.org.",
			"web.example.org. 20 IN A 192.0.2.1", "web.example.org. 20 IN A 192.0.2.2")},
		{"search, NODATA", "web.example.org.svc.cluster.local.", dns.TypeAAAA, answered{"NOERROR", true,
			[]string{"web.example.org.svc.cluster.local. 20 IN CNAME web.example.org."}, soa("web.example.org.", "20")}},
		{"search, alias itself", "www.example.org.svc.cluster.local.", dns.TypeCNAME, ok(true, "www.example.org.svc.cluster.local. 60 IN CNAME www.example.org.")},
		{"search, wildcard", "x.apps.example.org.svc.cluster.local.", dns.TypeA, ok(true,
			"x.apps.example.org.svc.cluster.local. 20 IN CNAME x.apps.example.org.", "x.apps.example.org. 20 IN A 192.0.2.20")},
		{"search, no table name", "other.example.org.svc.cluster.local.", dns.TypeA, forwarded("other.example.org.svc.cluster.local.")},
		{"search suffix alone", "svc.cluster.local.", dns.TypeA, forwarded("svc.cluster.local.")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, network := range []string{"udp", "tcp"} {
				if network == "tcp" && !tc.want.AA {
					continue // the upstream of this test is silent over TCP
				}
				if network == "tcp" && (tc.name == "alias out of the table" || tc.name == "alias to nothing") {
					continue
				}
				got := exchange(t, network, addr, query(tc.ask, tc.qtype))
				if diff := cmp.Diff(tc.want, view(got)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", network, diff)
				}
				if got.Question[0].Name != tc.ask {
					t.Errorf("question came back as %q", got.Question[0].Name)
				}
			}
		})
	}
}

func TestSRVBringsAddresses(t *testing.T) {
	s, addr := start(t, Config{})
	s.SetTable(table(t, storyTable))
	got := exchange(t, "udp", addr, query("_http._tcp.example.org", dns.TypeSRV))
	want := []string{"web.example.org. 20 IN A 192.0.2.1", "web.example.org. 20 IN A 192.0.2.2"}
	if diff := cmp.Diff(want, lines(turnedBack(got.Extra))); diff != "" {
		t.Errorf("additional (-want +got):\n%s", diff)
	}
}

// An exact name of the table wins over the same name read as an expansion.
func TestExactNameWinsOverExpansion(t *testing.T) {
	s, addr := start(t, Config{Search: []string{"example.org"}})
	s.SetTable(table(t, "names: {db: [192.0.2.1], db.example.org: [192.0.2.2]}"))
	got := exchange(t, "udp", addr, query("db.example.org", dns.TypeA))
	if diff := cmp.Diff([]string{"db.example.org. 30 IN A 192.0.2.2"}, lines(got.Answer)); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

// An alias whose end cannot be resolved is a failure, not an empty success.
func TestAliasOutOfReach(t *testing.T) {
	s, addr := start(t, Config{})
	s.SetTable(table(t, "names: {out.example.org: {cname: elsewhere.example.org}}"))
	got := exchange(t, "udp", addr, withEDNS(query("out.example.org", dns.TypeA), 1232))
	code, text := ede(got)
	if got.Rcode != dns.RcodeServerFailure || code != int(dns.ExtendedErrorCodeNoReachableAuthority) || text != "no upstream for queries at 127.0.0.1" {
		t.Errorf("got %s, EDE %d %q", dns.RcodeToString[got.Rcode], code, text)
	}
}

// What an upstream remarks on the end of an alias comes along (RFC 8914), and an
// answer that makes no sense is a failure.
func TestAliasThroughUpstream(t *testing.T) {
	names := "names: {out.example.org: {cname: a.example.org}}"
	ask := func(up *nameserver) *dns.Msg {
		s, addr := start(t, quick(up.addr))
		s.SetTable(table(t, names))
		return exchange(t, "udp", addr, withEDNS(query("out.example.org", dns.TypeA), 1232))
	}
	remark := with(t, func(m *dns.Msg) {
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer, ExtraText: "old"}}
	}, good)
	got := ask(upstream(t, remark, nil))
	if code, text := ede(got); len(got.Answer) != 2 || code != int(dns.ExtendedErrorCodeStaleAnswer) || text != "old" {
		t.Errorf("got %v", got)
	}
	short := func(reply func([]byte), q asked) {
		w := respond(t, q.wire, func(m *dns.Msg) { m.Extra = nil }, good)
		w = w[:len(w)-1]
		w[len(w)-4]-- // RDLENGTH: an address of three octets
		reply(w)
	}
	got = ask(upstream(t, short, nil))
	if code, _ := ede(got); got.Rcode != dns.RcodeServerFailure || code != int(dns.ExtendedErrorCodeInvalidData) {
		t.Errorf("got %v", got)
	}
}

// Swapping tables under load loses no query and never shows a mixture.
func TestSetTableLosesNothing(t *testing.T) {
	s, addr := start(t, Config{})
	one := table(t, "names: {a.example.org: [192.0.2.1, 192.0.2.2]}")
	two := table(t, "names: {a.example.org: [198.51.100.1, 198.51.100.2]}")
	s.SetTable(one)
	stop := make(chan struct{})
	swapped := make(chan struct{})
	go func() {
		defer close(swapped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				s.SetTable([]*Table{one, two}[i%2])
			}
		}
	}()
	conn := connect(t, "udp", addr)
	for range 500 {
		send(t, conn, pack(t, query("a.example.org", dns.TypeA)))
		m := unpack(t, receive(t, conn))
		if len(m.Answer) != 2 {
			t.Fatalf("answer: %v", m.Answer)
		}
		first, second := m.Answer[0].(*dns.A).A[0], m.Answer[1].(*dns.A).A[0]
		if first != second {
			t.Fatalf("records of two tables: %v", m.Answer)
		}
	}
	close(stop)
	<-swapped
}
