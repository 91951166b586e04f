// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// cookieOf is the cookie of a query in hex, empty without one.
func cookieOf(tb testing.TB, q asked) string {
	tb.Helper()
	opt := unpack(tb, q.wire).IsEdns0()
	if opt == nil {
		return ""
	}
	for _, o := range opt.Option {
		if c, ok := o.(*dns.EDNS0_COOKIE); ok {
			return c.Cookie
		}
	}
	return ""
}

// serverCookie is what the servers of these tests give out.
const serverCookie = "5345525645522d31"

// giving answers with a cookie, to who sends one.
func giving(t *testing.T, cookie func(sent string) string, change func(*dns.Msg)) script {
	return func(reply func([]byte), q asked) {
		reply(respond(t, q.wire, func(m *dns.Msg) {
			if sent := cookieOf(t, q); sent != "" {
				m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie(sent)})
			}
			if change != nil {
				change(m)
			}
		}, good))
	}
}

// honest is the client's cookie with the server's.
func honest(sent string) string { return sent[:2*clientCookie] + serverCookie }

// cookieKind says which cookie a query has.
func cookieKind(sent string) string {
	switch {
	case sent == "":
		return "none"
	case len(sent) == 2*clientCookie:
		return "client"
	case strings.HasSuffix(sent, serverCookie):
		return "both"
	}
	return "old"
}

// cookieCase is a server with its cookies.
type cookieCase struct {
	name     string
	udp, tcp script
	asked    string // with which cookies, by three queries
	known    bool   // whether the server's cookie is, in the end
}

func cookieCases(t *testing.T) []cookieCase {
	answer := with(t, nil, good)
	does := giving(t, honest, nil)
	badCookie := func(m *dns.Msg) { m.Rcode, m.Answer = dns.RcodeBadCookie, nil }
	// unless gives another answer for as long as a query has not the cookie that is wanted.
	unless := func(wanted string, otherwise script) script {
		return func(reply func([]byte), q asked) {
			if cookieKind(cookieOf(t, q)) == wanted {
				does(reply, q)
				return
			}
			otherwise(reply, q)
		}
	}
	// then is one server for the first query, and another one from then on.
	then := func(first, later script) script {
		var n atomic.Int32
		return func(reply func([]byte), q asked) {
			if n.Add(1) == 1 {
				first(reply, q)
			} else {
				later(reply, q)
			}
		}
	}
	forged := func(cookie string) script {
		return func(reply func([]byte), q asked) {
			reply(respond(t, q.wire, func(m *dns.Msg) {
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: dns.EDNS0COOKIE, Data: []byte(cookie)}}
			}, "a.example.org. 5 IN A 203.0.113.66"))
			does(reply, q)
		}
	}
	bare := with(t, nil, "a.example.org. 5 IN A 203.0.113.66")
	return []cookieCase{
		{"learnt", does, nil, "client both both", true},
		{"has none", answer, nil, "client none none", false},
		{"sends ours back alone", giving(t, func(sent string) string { return sent[:2*clientCookie] }, nil), nil, "client none none", false},
		{"changes its own", then(giving(t, func(sent string) string { return sent[:2*clientCookie] + "0102030405060708" }, nil), does), nil, "client old both", true},
		{"insists on its own", unless("both", giving(t, honest, badCookie)), nil, "client both both both", true},
		{"likes none, but by TCP", giving(t, honest, badCookie), does, "client both tcp both both both tcp both both both tcp both", true},
		{"likes none", unless("none", giving(t, honest, badCookie)), unless("none", giving(t, honest, badCookie)), "client both tcp both tcp none none none", false},

		{"FORMERR", unless("none", with(t, func(m *dns.Msg) { m.Rcode, m.Answer = dns.RcodeFormatError, nil }, good)), nil, "client none none none", false},
		{"BADVERS", unless("none", with(t, func(m *dns.Msg) { m.Rcode, m.Answer = dns.RcodeBadVers, nil }, good)), nil, "client none none none", false},
		{"silent", unless("none", func(func([]byte), asked) {}), nil, "client none none none", false},

		{"another client's cookie is forged", forged("12345678abcdefgh"), nil, "client both both", true},
		{"half a cookie is forged", forged("1234"), nil, "client both both", true},
		{"none any more may be forged", then(does, bare), does, "client both tcp both both tcp both", true},
		{"none any more", then(does, answer), answer, "client both tcp both none", false},
	}
}

// What servers do with cookies, what they are asked with then, and that clients have
// their answers. RFC 7873 sections 5.1 and 5.3; servers that do not know the option
// ignore it (RFC 6891 section 6.1.2), or else are asked without.
func TestCookies(t *testing.T) {
	for _, way := range []string{"", ", no goroutine"} {
		for _, tc := range cookieCases(t) {
			t.Run(tc.name+way, func(t *testing.T) {
				up := upstream(t, tc.udp, tc.tcp)
				cfg := quick(up.addr)
				if tc.name != "silent" {
					cfg.Resend = patience
				}
				s, addr := start(t, cfg)
				for range 3 {
					q := withEDNS(query("a.example.org", dns.TypeA), 1232, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "c11e47c11e47c11e"})
					wantGood(t, exchange(t, "udp", addr, q))
					if way != "" {
						warmPorts(t, s) // for the next one: the first always needs a goroutine
					}
				}
				var kinds []string
				for _, q := range up.queries() {
					sent := cookieOf(t, q)
					if strings.HasPrefix(sent, "c11e47") {
						t.Error("the client's own cookie went on")
					}
					if q.network == "tcp" {
						kinds = append(kinds, "tcp")
					}
					kinds = append(kinds, cookieKind(sent))
				}
				if got := strings.Join(kinds, " "); tc.asked != "" && got != tc.asked {
					t.Errorf("asked with %s, want %s", got, tc.asked)
				}
				if known := s.own.peer(up.addr).cookies.Load().isKnown(); known != tc.known {
					t.Errorf("the server's cookie is known: %t", known)
				}
			})
		}
	}
}

// Each server gets another cookie, and each address of ours has its own: nobody can
// follow us by it. RFC 9018 section 3.
func TestCookiesTellNothing(t *testing.T) {
	does := giving(t, honest, nil)
	first, second := upstream(t, does, nil), upstream(t, does, nil)
	s, err := New(Config{CacheBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	var local atomic.Value
	local.Store("127.0.0.1")
	sc := newScope(t, s, ScopeConfig{
		Settings: Settings{Routes: []Route{
			{Suffix: "a.example.org", Upstreams: []Upstream{plain(first.addr)}},
			{Suffix: "b.example.org", Upstreams: []Upstream{plain(second.addr)}},
		}},
		Dial: func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(local.Load().(string))}}
			return d.DialContext(ctx, network, server.String())
		},
	})
	l, addr := listen(t, "127.0.0.1")
	serveScope(t, sc, l)
	ask := func(name string) { exchange(t, "udp", addr, withEDNS(query(name, dns.TypeA), 1232)) }
	ask("a.example.org")
	ask("b.example.org")
	local.Store("127.0.0.2")
	testenv.Eventually(t, patience, func() error { // the ports of before live a second
		ask("a.example.org")
		if from := first.queries()[len(first.queries())-1].from; from.Addr() != netip.MustParseAddr("127.0.0.2") {
			return context.DeadlineExceeded
		}
		return nil
	})
	owners := make(map[string][]string)
	for _, up := range []*nameserver{first, second} {
		for _, q := range up.queries() {
			if sent := cookieOf(t, q); sent != "" {
				cookie, who := sent[:2*clientCookie], q.from.Addr().String()+" to "+up.addr.String()
				if !slices.Contains(owners[cookie], who) {
					owners[cookie] = append(owners[cookie], who)
				}
			}
		}
	}
	if len(owners) != 3 {
		t.Errorf("%d cookies, want 3: %v", len(owners), owners)
	}
	for cookie, of := range owners {
		if len(of) != 1 {
			t.Errorf("%s is the cookie of %v", cookie, of)
		}
	}
}

// A real nameserver that does cookies takes ours for good: it limits the rate of answers
// to all but those who have its cookie. RFC 7873 section 5.2.4, RFC 9018 section 4.
func TestCookiesOfNSD(t *testing.T) {
	client, server := testenv.NewLink(t)
	at := netip.MustParseAddrPort("192.0.2.53:53")
	testenv.NSD(t, server, []netip.AddrPort{at}, map[string]string{"example.org.": zoneText(t, "example.org.")},
		"answer-cookie: yes", "rrl-ratelimit: 5", "rrl-slip: 0")
	s, err := New(Config{CacheBytes: -1, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	sc := newScope(t, s, ScopeConfig{
		Settings: Settings{Upstreams: []netip.AddrPort{at}},
		Dial: func(ctx context.Context, network string, server netip.AddrPort) (conn net.Conn, err error) {
			client.Do(func() { conn, err = dialHere(ctx, network, server) })
			return conn, err
		},
	})
	l, addr := listen(t, "127.0.0.1")
	serveScope(t, sc, l)
	q := withEDNS(query("www.example.org", dns.TypeA), 1232)
	exchange(t, "udp", addr, q)
	c := sc.peer(at).cookies.Load()
	if !c.isKnown() || len(c.sent) != 24 || c.sent[clientCookie] != 1 {
		t.Fatalf("after one query the cookie is %s", hex.EncodeToString(c.sent))
	}
	begin := time.Now()
	for range 200 {
		if got := exchange(t, "udp", addr, q); len(got.Answer) == 0 {
			t.Fatalf("got %v", got)
		}
	}
	if n := s.metrics.retries[retryResend].Load(); n > 20 {
		t.Errorf("200 queries in %s were asked %d times more: the server does not know us", time.Since(begin), n)
	}
}
