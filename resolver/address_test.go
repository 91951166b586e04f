// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// Addresses of servers, and the name that the certificate of one must have: RFC 8310
// section 8.
func TestParseUpstream(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.53":                            "192.0.2.53:53",
		"192.0.2.53:5353":                       "192.0.2.53:5353",
		"2001:db8::53":                          "[2001:db8::53]:53",
		"[2001:db8::53]":                        "[2001:db8::53]:53",
		"fe80::1%eth0":                          "[fe80::1%eth0]:53",
		"[fe80::1%eth0]:5353":                   "[fe80::1%eth0]:5353",
		"[2001:db8::53]:5353":                   "[2001:db8::53]:5353",
		"::ffff:192.0.2.53":                     "192.0.2.53:53",
		"udp://192.0.2.53":                      "192.0.2.53:53",
		"tcp://192.0.2.53":                      "tcp://192.0.2.53:53",
		"tls://192.0.2.53#DNS.example.org.":     "tls://192.0.2.53:853#dns.example.org",
		"tls://192.0.2.53":                      "tls://192.0.2.53:853",
		"tls://[2001:db8::53]:8853#d.example":   "tls://[2001:db8::53]:8853#d.example",
		"https://192.0.2.53#dns.example.org":    "https://192.0.2.53:443/dns-query#dns.example.org",
		"https://192.0.2.53:8443/q/x#d.example": "https://192.0.2.53:8443/q/x#d.example",
	} {
		got, err := ParseUpstream(text)
		if err != nil || got.String() != want {
			t.Errorf("%s: got %v, %v, want %s", text, got, err, want)
		}
		if again, err := ParseUpstream(got.String()); err != nil || again != got {
			t.Errorf("%s: %v does not parse to itself: %v, %v", text, got, again, err)
		}
	}
	const example = "want an address such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"
	for text, want := range map[string]string{
		"":                            `upstream "": ` + example,
		"dns.example.org":             `upstream "dns.example.org": ` + example,
		"tls://dns.example.org":       `upstream "tls://dns.example.org": ` + example,
		"192.0.2.53:port":             `upstream "192.0.2.53:port": ` + example,
		"192.0.2.53:0":                `upstream "192.0.2.53:0" is not the address and port of a server`,
		"0.0.0.0":                     `upstream "0.0.0.0:53" is not the address and port of a server`,
		"224.0.0.1":                   `upstream "224.0.0.1:53" is not the address and port of a server`,
		"quic://192.0.2.53":           `upstream "quic://192.0.2.53": scheme "quic" is none of udp, tcp, tls, https`,
		"192.0.2.53#dns.example.org":  `upstream "192.0.2.53#dns.example.org": only tls and https have a name to verify`,
		"tls://192.0.2.53#":           `upstream "tls://192.0.2.53#": name "" is empty`,
		"tls://192.0.2.53#a..example": `upstream "tls://192.0.2.53#a..example": name "a..example": empty label`,
	} {
		if got, err := ParseUpstream(text); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, %v, want %s", text, got, err, want)
		}
	}
}

func TestParseRoute(t *testing.T) {
	got, err := ParseRoute("Cluster2.example.org=192.0.2.5, tls://192.0.2.6#dns.example.org")
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"Suffix":"Cluster2.example.org","Upstreams":["192.0.2.5:53","tls://192.0.2.6:853#dns.example.org"]}`, string(data)); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	var again Route
	if err := json.Unmarshal(data, &again); err != nil || again.Upstreams[1] != got.Upstreams[1] {
		t.Errorf("back from JSON: %v, %v", again, err)
	}
	for text, want := range map[string]string{
		"example.org":             `route "example.org": want a suffix, =, and servers, such as cluster2.example.org=192.0.2.5,192.0.2.6`,
		"=192.0.2.5":              `route "=192.0.2.5": want a suffix, =, and servers, such as cluster2.example.org=192.0.2.5,192.0.2.6`,
		"example.org=":            `route "example.org": upstream "": want an address such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53`,
		"example.org=192.0.2.5,x": `route "example.org": upstream "x": want an address such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53`,
		"a..b=192.0.2.5":          `route "a..b": name "a..b": empty label`,
	} {
		if got, err := ParseRoute(text); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, %v, want %s", text, got, err, want)
		}
	}
}

// route parses a route or fails.
func mustRoute(tb testing.TB, text string) Route {
	tb.Helper()
	r, err := ParseRoute(text)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// The longest suffix of whole labels decides who is asked, before Origin and Upstreams;
// what one says is not kept for the others.
func TestRoutes(t *testing.T) {
	end := &oracle{tb: t, answer: says(t, nil)}
	s := before(t, Config{
		Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")},
		Origin:    meant(netip.MustParseAddr("192.0.2.9")),
		Routes: []Route{
			mustRoute(t, "example.org=192.0.2.2"), mustRoute(t, "Sub.example.org.=192.0.2.3,192.0.2.33"),
			mustRoute(t, "a.b.example.net=tls://192.0.2.4#x.example"),
		},
	}, end)
	ask := func(name string) string {
		t.Helper()
		askServer(t, s, packetOf(t, query(name, dns.TypeA)))
		var words []string
		for _, up := range end.seen[len(end.seen)-1].upstreams {
			words = append(words, up.String())
		}
		return strings.Join(words, " ")
	}
	for name, want := range map[string]string{
		"example.org": "192.0.2.2:53", "x.example.org": "192.0.2.2:53", "x.y.EXAMPLE.org": "192.0.2.2:53",
		"sub.example.org": "192.0.2.3:53 192.0.2.33:53", "x.sub.example.org": "192.0.2.3:53 192.0.2.33:53",
		"xsub.example.org": "192.0.2.2:53", "myexample.org": "192.0.2.1:53", "org": "192.0.2.1:53", ".": "192.0.2.1:53",
		"a.b.example.net": "tls://192.0.2.4:853#x.example", "b.example.net": "192.0.2.1:53",
	} {
		if got := ask(name); got != want {
			t.Errorf("%s goes to %s, want %s", name, got, want)
		}
	}
	// Without Upstreams, what has no route goes to whom the client meant.
	if err := s.own.Set(Settings{Upstreams: []netip.AddrPort{}, Routes: []Route{mustRoute(t, "example.org=192.0.2.2")}}); err != nil {
		t.Fatal(err)
	}
	if got := ask("example.com"); got != "192.0.2.9:53" {
		t.Errorf("example.com goes to %s", got)
	}
}

// All mistakes are told at once, and nothing changes.
func TestRouteErrors(t *testing.T) {
	s := before(t, Config{}, nil)
	l, addr := listen(t, "127.0.0.1")
	serve(t, s, l)
	if err := Ping(t.Context(), addr); err != nil {
		t.Fatal(err)
	}
	err := s.own.Set(Settings{
		Upstreams: []netip.AddrPort{shared1},
		Routes: []Route{
			{Suffix: "a..b"}, {Suffix: "empty.example"}, {Suffix: "bad.example", Upstreams: make([]Upstream, 1)},
			mustRoute(t, "twice.example=192.0.2.1"), mustRoute(t, "Twice.example.=192.0.2.1"), mustRoute(t, ".=192.0.2.1"),
			mustRoute(t, "loop.example="+addr.String()),
		},
	})
	want := `route "a..b": name "a..b": empty label
route "empty.example": no servers
upstream "invalid AddrPort" is not the address and port of a server
route "Twice.example.": servers are given twice
upstream ` + addr.String() + ` is this resolver itself
route ".": servers are given twice`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if _, err := New(Config{Routes: []Route{{Suffix: "x"}}}); err == nil || err.Error() != `route "x": no servers` {
		t.Errorf("New: %v", err)
	}
}

// FuzzUpstream: whatever is a server, or a route, is the same one when its text is read
// again.
func FuzzUpstream(f *testing.F) {
	for _, text := range []string{"192.0.2.53", "[2001:db8::53]:5353", "fe80::1%eth0", "tcp://192.0.2.53", "tls://192.0.2.53#dns.example.org",
		"https://192.0.2.53/dns-query#dns.example.org", "cluster2.example.org=192.0.2.5, tls://192.0.2.6", ".=::1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if u, err := ParseUpstream(text); err == nil {
			if again, err := ParseUpstream(u.String()); err != nil || again != u {
				t.Errorf("%q is %s, which is %s, %v", text, u, again, err)
			}
		}
		r, err := ParseRoute(text)
		if err != nil {
			return
		}
		if _, err := New(Config{Routes: []Route{r}}); err != nil {
			t.Errorf("%q is a route, but %v", text, err)
		}
	})
}
