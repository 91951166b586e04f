// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestNameserverOnLink(t *testing.T) {
	client, server := NewLink(t)
	for _, addr := range []string{"192.0.2.53:53", "192.0.2.54:53", "192.0.2.7:53", "[2001:db8::53]:53", "[2001:db8::54]:53"} {
		t.Run(addr, func(t *testing.T) {
			addr := netip.MustParseAddrPort(addr)
			ns := Nameserver(t, server, addr, nil)
			want := AnswerOf(addr.Addr()).String()
			for _, network := range []string{"udp", "tcp"} {
				got := exchange(t, client, network, addr, "www.example.org.", dns.TypeA, 0)
				if len(got.Answer) != 1 || got.Answer[0].(*dns.A).A.String() != want {
					t.Errorf("answer over %s: %v, want %s", network, got.Answer, want)
				}
			}
			var protos []string
			for _, q := range ns.Queries() {
				protos = append(protos, q.Proto+" "+q.Source.Addr().String()+" "+q.Name)
			}
			source := "192.0.2.1"
			if addr.Addr().Is6() {
				source = "2001:db8::1"
			}
			wantQueries := []string{"udp " + source + " www.example.org.", "tcp " + source + " www.example.org."}
			if diff := cmp.Diff(wantQueries, protos); diff != "" {
				t.Errorf("recorded queries (-want +got):\n%s", diff)
			}
			if n := ns.Count("WWW.example.org"); n != 2 {
				t.Errorf("Count = %d, want 2", n)
			}
			if ns.Reset(); len(ns.Queries()) != 0 {
				t.Error("Reset kept queries")
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	ns := NewNetNS(t)
	server := Nameserver(t, ns, netip.MustParseAddrPort("127.0.0.1:0"), nil)
	for _, tc := range []struct {
		name, network, qname string
		qtype, size          uint16
		rcode                int
		answers              int
		truncated            bool
	}{
		{name: "address", network: "udp", qname: "a.example.org.", qtype: dns.TypeA, answers: 1},
		{name: "v6 address", network: "udp", qname: "a.example.org.", qtype: dns.TypeAAAA, answers: 1},
		{name: "text", network: "udp", qname: "a.example.org.", qtype: dns.TypeTXT, answers: 1},
		{name: "no data", network: "udp", qname: "a.example.org.", qtype: dns.TypeMX},
		{name: "no name", network: "udp", qname: "nx.example.org.", qtype: dns.TypeA, rcode: dns.RcodeNameError},
		{name: "big", network: "udp", qname: "big.example.org.", qtype: dns.TypeTXT, truncated: true},
		{name: "big, EDNS", network: "udp", qname: "big.example.org.", qtype: dns.TypeTXT, size: 1232, truncated: true},
		{name: "big, large EDNS", network: "udp", qname: "big.example.org.", qtype: dns.TypeTXT, size: 8192, answers: 1},
		{name: "big over TCP", network: "tcp", qname: "big.example.org.", qtype: dns.TypeTXT, answers: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := exchange(t, ns, tc.network, server.Addr, tc.qname, tc.qtype, tc.size)
			if got.Rcode != tc.rcode || len(got.Answer) != tc.answers || got.Truncated != tc.truncated {
				t.Errorf("rcode %d, %d answers, truncated %v; want %d, %d, %v",
					got.Rcode, len(got.Answer), got.Truncated, tc.rcode, tc.answers, tc.truncated)
			}
			if negative := tc.answers == 0 && !tc.truncated; negative && len(got.Ns) != 1 {
				t.Errorf("negative answer has authority %v, want an SOA", got.Ns)
			}
			if tc.qname == "big.example.org." && tc.answers == 1 {
				if n := len(strings.Join(got.Answer[0].(*dns.TXT).Txt, "")); n != BigTXT {
					t.Errorf("text has %d bytes, want %d", n, BigTXT)
				}
			}
		})
	}
}

const testZone = `
@      SOA ns hostmaster 1 3600 600 86400 300
@      NS ns
ns     A 192.0.2.53
www    CNAME web
web    A 198.51.100.80
loop   CNAME loop
`

func TestZone(t *testing.T) {
	ns := NewNetNS(t)
	server := Nameserver(t, ns, netip.MustParseAddrPort("[::1]:0"), Zone(t, "example.org", testZone))
	for _, tc := range []struct {
		name  string
		qtype uint16
		rcode int
		want  []string
	}{
		{name: "web.example.org.", qtype: dns.TypeA, want: []string{"198.51.100.80"}},
		{name: "WEB.example.org.", qtype: dns.TypeA, want: []string{"198.51.100.80"}},
		{name: "www.example.org.", qtype: dns.TypeA, want: []string{"web.example.org.", "198.51.100.80"}},
		{name: "www.example.org.", qtype: dns.TypeAAAA, want: []string{"web.example.org."}},
		{name: "web.example.org.", qtype: dns.TypeAAAA},
		{name: "none.example.org.", qtype: dns.TypeA, rcode: dns.RcodeNameError},
	} {
		t.Run(tc.name+" "+dns.TypeToString[tc.qtype], func(t *testing.T) {
			reply := exchange(t, ns, "udp", server.Addr, tc.name, tc.qtype, 0)
			var got []string
			for _, rr := range reply.Answer {
				got = append(got, strings.TrimPrefix(rr.String(), rr.Header().String()))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || reply.Rcode != tc.rcode {
				t.Errorf("rcode %d, want %d; answer (-want +got):\n%s", reply.Rcode, tc.rcode, diff)
			}
		})
	}
	if got := exchange(t, ns, "udp", server.Addr, "loop.example.org.", dns.TypeA, 0); len(got.Answer) > chainLimit {
		t.Errorf("a CNAME loop gave %d records", len(got.Answer))
	}
}

func TestRealNameservers(t *testing.T) {
	client, server := NewLink(t)
	authority := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[2001:db8::53]:53")}
	NSD(t, server, authority, map[string]string{"example.org": testZone})
	recursive := netip.MustParseAddrPort("192.0.2.54:53")
	Unbound(t, server, UnboundConfig{
		Listen:  []netip.AddrPort{recursive},
		Forward: authority[:1],
		Records: []string{"local.example.org. A 198.51.100.1"},
	})
	for _, tc := range []struct {
		server netip.AddrPort
		name   string
		want   string
	}{
		{authority[0], "web.example.org.", "198.51.100.80"},
		{authority[1], "web.example.org.", "198.51.100.80"},
		{recursive, "web.example.org.", "198.51.100.80"},
		{recursive, "local.example.org.", "198.51.100.1"},
	} {
		t.Run(tc.server.String()+" "+tc.name, func(t *testing.T) {
			reply := exchange(t, client, "udp", tc.server, tc.name, dns.TypeA, 0)
			if len(reply.Answer) != 1 || reply.Answer[0].(*dns.A).A.String() != tc.want {
				t.Errorf("answer %v, want %s", reply.Answer, tc.want)
			}
		})
	}
}
