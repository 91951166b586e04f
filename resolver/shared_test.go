// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// Of a shared name the table has the addresses, and the nameserver the rest; where it
// does not know the name it has none of the type (RFC 2308 section 2.2).
func TestSharedNames(t *testing.T) {
	up := upstream(t, func(reply func([]byte), q asked) {
		name := unpack(t, q.wire).Question[0].Name
		switch name {
		case "mail.example.org.", "_db._tcp.x.apps.example.org.":
			reply(respond(t, q.wire, nil, name+` 9 IN TXT "theirs"`))
		default:
			reply(respond(t, q.wire, func(m *dns.Msg) { m.Rcode = dns.RcodeNameError }))
		}
	}, nil)
	s, addr := start(t, Config{Upstreams: []netip.AddrPort{up.addr}, Search: []string{"svc.cluster.local"}, CacheBytes: -1})
	all := NewNames()
	t.Cleanup(all.Follow(s))
	layer := all.AddLayer("test")
	from := layer.Origin(func() string { return "test" })
	set := func(shared bool) {
		t.Helper()
		addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		var names []Name
		for _, name := range []string{"mail.example.org", "inner.example.org", "*.apps.example.org"} {
			names = append(names, Name{Name: name, TTL: 20, From: from, Addrs: addrs, Shared: shared})
		}
		names = append(names, Name{Name: "www.example.org", TTL: 20, From: from, CNAME: "mail.example.org"})
		if err := layer.Replace(slices.Values(names)); err != nil {
			t.Fatal(err)
		}
	}
	ok := func(aa bool, records ...string) answered { return answered{"NOERROR", aa, records, nil} }
	none := func(owner string, before ...string) answered {
		return answered{"NOERROR", true, before, soa(owner, "20")}
	}
	check := func(ask string, qtype uint16, want answered) {
		t.Helper()
		for range 2 {
			if diff := cmp.Diff(want, view(exchange(t, "udp", addr, query(ask, qtype)))); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", ask, dns.TypeToString[qtype], diff)
			}
		}
	}
	set(true)
	check("mail.example.org.", dns.TypeA, ok(true, "mail.example.org. 20 IN A 192.0.2.1"))
	check("mail.example.org.", dns.TypeTXT, ok(false, `mail.example.org. 9 IN TXT "theirs"`))
	// Addresses of the nameserver's are not ours, nor those that HTTPS brings.
	check("mail.example.org.", dns.TypeAAAA, none("mail.example.org."))
	check("mail.example.org.", dns.TypeHTTPS, none("mail.example.org."))
	check("inner.example.org.", dns.TypeTXT, none("inner.example.org."))
	check("_db._tcp.x.apps.example.org.", dns.TypeTXT, ok(false, `_db._tcp.x.apps.example.org. 9 IN TXT "theirs"`))
	check("y.apps.example.org.", dns.TypeTXT, none("y.apps.example.org."))
	expansion := "mail.example.org.svc.cluster.local. 20 IN CNAME mail.example.org."
	check("mail.example.org.svc.cluster.local.", dns.TypeTXT, ok(true, expansion, `mail.example.org. 9 IN TXT "theirs"`))
	check("inner.example.org.svc.cluster.local.", dns.TypeTXT,
		none("inner.example.org.", "inner.example.org.svc.cluster.local. 20 IN CNAME inner.example.org."))
	check("www.example.org.", dns.TypeTXT, ok(true, "www.example.org. 20 IN CNAME mail.example.org.", `mail.example.org. 9 IN TXT "theirs"`))
	// The name becomes the table's alone, and shared again; nobody keeps what it was.
	keeping, kept := start(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	t.Cleanup(all.Follow(keeping))
	for _, shared := range []bool{true, false, true, false} {
		set(shared)
		want := 0
		if shared {
			want = 1
		}
		for range 2 {
			if got := exchange(t, "udp", kept, query("mail.example.org.", dns.TypeTXT)); len(got.Answer) != want {
				t.Errorf("shared %v: %v", shared, got)
			}
		}
	}
}
