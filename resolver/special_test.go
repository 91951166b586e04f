// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// Special names are answered here (RFC 6761 section 6.3 and 6.4, RFC 7686 section 2,
// RFC 6303 section 4), on both ways; all others are asked for.
func TestSpecialNames(t *testing.T) {
	const v6 = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa."
	bothWays(t, "answers", func(t *testing.T, start starter) {
		up := upstream(t, with(t, nil, good), nil)
		_, addr := start(t, Config{Upstreams: []netip.AddrPort{up.addr}})
		for _, tc := range []struct {
			name  string
			qtype uint16
			want  string // rcode, answers; empty if it is forwarded
		}{
			{"localhost", dns.TypeA, "NOERROR localhost. 30 IN A 127.0.0.1"},
			{"LocalHost", dns.TypeAAAA, "NOERROR LocalHost. 30 IN AAAA ::1"},
			{"a.b.localhost", dns.TypeA, "NOERROR a.b.localhost. 30 IN A 127.0.0.1"},
			{"localhost", dns.TypeANY, "NOERROR localhost. 30 IN A 127.0.0.1 localhost. 30 IN AAAA ::1"},
			{"localhost", dns.TypeMX, "NOERROR"},
			{"invalid", dns.TypeA, "NXDOMAIN"},
			{"a.invalid", dns.TypeTXT, "NXDOMAIN"},
			{"a.onion", dns.TypeA, "NXDOMAIN"},
			{"1.0.0.127.in-addr.arpa", dns.TypePTR, "NOERROR 1.0.0.127.in-addr.arpa. 30 IN PTR localhost."},
			{"1.0.0.127.in-addr.arpa", dns.TypeA, "NOERROR"},
			{"2.0.0.127.in-addr.arpa", dns.TypePTR, "NXDOMAIN"},
			{"0.0.0.0.in-addr.arpa", dns.TypePTR, "NXDOMAIN"},
			{"1." + v6, dns.TypePTR, "NOERROR 1." + v6 + " 30 IN PTR localhost."},
			{"0." + v6, dns.TypePTR, "NXDOMAIN"},
			{"notlocalhost", dns.TypeA, ""},
			{"localhost.example.org", dns.TypeA, ""},
			{"test", dns.TypeA, ""},
			{"home.arpa", dns.TypeA, ""},
			{"1.1.168.192.in-addr.arpa", dns.TypePTR, ""},
		} {
			before := len(up.queries())
			got := exchange(t, "udp", addr, query(tc.name, tc.qtype))
			if forwarded := len(up.queries()) > before; forwarded != (tc.want == "") {
				t.Errorf("%s %d: forwarded %t", tc.name, tc.qtype, forwarded)
			}
			if tc.want == "" {
				continue
			}
			words := strings.Join(append([]string{dns.RcodeToString[got.Rcode]}, lines(got.Answer)...), " ")
			if words != tc.want || len(got.Answer) == 0 && len(got.Ns) != 1 || !got.Authoritative {
				t.Errorf("%s %d: got %s, AA %t, %v; want %s", tc.name, tc.qtype, words, got.Authoritative, got.Ns, tc.want)
			}
		}
	})
}

// The table, a route of their own, and the setting to forward them go first.
func TestSpecialNamesElsewhere(t *testing.T) {
	bothWays(t, "forwarded", func(t *testing.T, start starter) {
		up := upstream(t, with(t, nil, good), nil)
		s, addr := start(t, Config{Upstreams: []netip.AddrPort{up.addr}, Routes: []Route{{Suffix: "onion", Upstreams: []Upstream{plain(up.addr)}}}})
		s.SetTable(table(t, "names: {localhost: [192.0.2.1]}"))
		if got := lines(exchange(t, "udp", addr, query("localhost", dns.TypeA)).Answer); len(got) != 1 || got[0] != "localhost. 30 IN A 192.0.2.1" {
			t.Errorf("table: got %v", got)
		}
		exchange(t, "udp", addr, query("a.onion", dns.TypeA))
		if n := len(up.queries()); n != 1 {
			t.Errorf("route: %d queries", n)
		}
		_, addr = start(t, Config{Upstreams: []netip.AddrPort{up.addr}, ForwardSpecial: true})
		exchange(t, "udp", addr, query("localhost", dns.TypeA))
		if n := len(up.queries()); n != 2 {
			t.Errorf("ForwardSpecial: %d queries", n)
		}
	})
}
