// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// misbehaviour is what an upstream does wrong, and what the client has of it.
type misbehaviour struct {
	name     string
	udp, tcp script // nil is silent
	by       string // the client asks by TCP, or both; UDP if empty
	want     string // "answer" if empty; else as said does
	asked    string // what the upstream got, unless empty
}

const (
	silentWords = "SERVFAIL, 22 upstream timed out after 3 tries in 600ms"
	closedWords = "SERVFAIL, 23 upstream: closed the connection without an answer"
)

// misbehaviours are all that upstreams do wrong.
func misbehaviours(t *testing.T) []misbehaviour {
	answer := with(t, nil, good)
	truncated := with(t, func(m *dns.Msg) { m.Truncated = true; m.Answer = nil })
	// lie is a wrong answer, and the right one behind it.
	lie := func(change func([]byte) []byte) script {
		return func(reply func([]byte), q asked) {
			reply(change(respond(t, q.wire, nil, "a.example.org. 5 IN A 203.0.113.66")))
			answer(reply, q)
		}
	}
	wrongID := func(w []byte) []byte { w[0] ^= 1; return w }
	damaged := func(reply func([]byte), q asked) {
		w := respond(t, q.wire, nil, good)
		reply(w[:len(w)-2])
	}
	reset := func(_ func([]byte), q asked) { _ = q.conn.SetLinger(0) }
	closes := func(func([]byte), asked) {}
	// half ends its own side, before or after an answer, and waits for ours to end.
	half := func(answer script) script {
		return func(reply func([]byte), q asked) {
			answer(reply, q)
			_ = q.conn.CloseWrite()
			_, _ = readFrame(q.conn)
		}
	}
	return []misbehaviour{
		{"honest", answer, answer, "both", "", ""},
		{"silent", nil, nil, "both", silentWords, ""},
		{"silent to the first copy", loseFirst(answer), nil, "", "", ""},
		{"slower than the resend", func(reply func([]byte), q asked) {
			if q.network == "udp" {
				time.AfterFunc(200*time.Millisecond, func() { answer(reply, q) })
			}
		}, nil, "", "", ""},

		// What does not match is ignored: RFC 5452 section 9.1.
		{"wrong ID first", lie(wrongID), nil, "", "", "udp"},
		{"wrong question first", lie(func(w []byte) []byte { w[headerLen+1] = 'z'; return w }), nil, "", "", "udp"},
		{"wrong type first", lie(func(w []byte) []byte { w[headerLen+len("\x01a\x07example\x03org\x00")+1] = 28; return w }), nil, "", "", "udp"},
		{"query reflected first", lie(func(w []byte) []byte { w[2] &^= 0x80; return w }), nil, "", "", "udp"},
		{"other operation first", lie(func(w []byte) []byte { w[2] |= 4 << 3; return w }), nil, "", "", "udp"},
		{"no question first", lie(func(w []byte) []byte { return append(w[:headerLen:headerLen], make([]byte, 9)...) }), nil, "", "", "udp"},
		{"garbage first", lie(func([]byte) []byte { return []byte("garbage") }), nil, "", "", "udp"},
		{"wrong ID only", func(reply func([]byte), q asked) { reply(wrongID(respond(t, q.wire, nil, good))) }, nil, "", silentWords, ""},
		{"question in another case", with(t, func(m *dns.Msg) { m.Question[0].Name = "A.eXAMPLE.org." }, good), nil, "", "", "udp"},

		// What is not whole is asked by TCP, once: RFC 7766 section 5.
		{"truncated, then TCP", truncated, answer, "", "", "udp tcp"},
		{"cut inside a record with TC, then TCP", func(reply func([]byte), q asked) {
			w := respond(t, q.wire, func(m *dns.Msg) { m.Truncated = true }, good)
			reply(w[:len(w)-2])
		}, answer, "", "", "udp tcp"},
		{"TC, also over TCP", truncated, truncated, "both", "NOERROR, TC", ""},
		{"TC, and a loop of it is none", truncated, truncated, "", "NOERROR, TC", "udp tcp"},
		{"TC, and no TCP", truncated, reset, "", "NOERROR, TC", "udp tcp"},
		{"damaged, then TCP", damaged, answer, "", "", "udp tcp"},
		{"damaged everywhere", damaged, damaged, "both", "SERVFAIL, 23 upstream: malformed answer: message ends inside a record", ""},

		{"no EDNS: FORMERR", refuseEDNS(t, dns.RcodeFormatError), refuseEDNS(t, dns.RcodeFormatError), "both", "", ""},
		{"no EDNS: NOTIMP", refuseEDNS(t, dns.RcodeNotImplemented), nil, "", "", ""},

		{"closes", nil, closes, "tcp", closedWords, "tcp"},
		{"half-closes", nil, half(closes), "tcp", closedWords, "tcp"},
		{"half-closes behind the answer", nil, half(answer), "tcp", "", "tcp"},
		{"resets", nil, reset, "tcp", "SERVFAIL, 23 upstream: connection reset by peer", "tcp"},

		// One that is lame says so, and what it says is passed: RFC 8499 section 7.
		{"lame: REFUSED", lame(t, dns.RcodeRefused), lame(t, dns.RcodeRefused), "both", "REFUSED", ""},
		{"lame: SERVFAIL", lame(t, dns.RcodeServerFailure), lame(t, dns.RcodeServerFailure), "both", "SERVFAIL", ""},
		{"lame: upward referral", lame(t, dns.RcodeSuccess), lame(t, dns.RcodeSuccess), "both", "NOERROR", ""},
	}
}

// refuseEDNS is a server from before EDNS.
func refuseEDNS(t *testing.T, rcode int) script {
	return func(reply func([]byte), q asked) {
		if unpack(t, q.wire).IsEdns0() == nil {
			reply(respond(t, q.wire, nil, good))
			return
		}
		head := slices.Clone(q.wire[:headerLen])
		head[2], head[3], head[5], head[11] = 0x80, byte(rcode), 0, 0
		reply(head)
	}
}

// lame is a server that is not the one to ask: with NOERROR it refers to the root.
func lame(t *testing.T, rcode int) script {
	return with(t, func(m *dns.Msg) {
		m.Rcode, m.RecursionAvailable = rcode, false
		if rcode == dns.RcodeSuccess {
			m.Ns = []dns.RR{&dns.NS{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: 5}, Ns: "a.root-servers.net."}}
		}
	})
}

// said is a reply in words, without the address of the upstream.
func said(m *dns.Msg, up netip.AddrPort) string {
	out := dns.RcodeToString[m.Rcode]
	switch text := strings.ReplaceAll(fmtEDE(m), " "+up.String(), ""); {
	case text != "":
		return out + ", " + text
	case m.Truncated:
		return out + ", TC"
	case slices.Equal(lines(m.Answer), []string{good}):
		return "answer"
	}
	return out
}

// What upstreams do wrong: the client has its answer all the same (from servers before
// EDNS, RFC 6891 section 6.2.2; over TCP, RFC 7766 section 5), or hears in words why there
// is none, after tries of less than a second (RFC 8914 section 2, RFC 9520 section 3.1).
func TestMisbehavingUpstream(t *testing.T) {
	for _, tc := range misbehaviours(t) {
		networks := map[string][]string{"": {"udp"}, "tcp": {"tcp"}, "both": {"udp", "tcp"}}[tc.by]
		for _, network := range networks {
			bothWays(t, tc.name+", "+network, func(t *testing.T, start starter) {
				up := upstream(t, tc.udp, tc.tcp)
				cfg := quick(up.addr)
				if tc.want == silentWords {
					cfg = hasty(up.addr)
				}
				if tc.asked != "" {
					cfg.Resend = patience // or a busy machine asks more than once
				}
				_, addr := start(t, cfg)
				got := exchange(t, network, addr, withEDNS(query("a.example.org", dns.TypeA), 1232))
				if want := cmp.Or(tc.want, "answer"); said(got, up.addr) != want {
					t.Errorf("got %q, want %q: %v", said(got, up.addr), want, got)
				}
				if got.Question[0].Name != "a.example.org." || got.IsEdns0() == nil {
					t.Errorf("question and OPT came back as %v", got)
				}
				var networks []string
				for _, q := range up.queries() {
					networks = append(networks, q.network)
				}
				if asked := strings.Join(networks, " "); tc.asked != "" && asked != tc.asked {
					t.Errorf("asked by %s, want %s", asked, tc.asked)
				}
			})
		}
	}
}

// loseFirst loses every second copy, beginning with the first.
func loseFirst(answer script) script {
	lost := false
	return func(reply func([]byte), q asked) {
		if lost = !lost; !lost {
			answer(reply, q)
		}
	}
}

// A server where nobody listens is one that answers at once.
func TestNobodyListens(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		bothWays(t, network, func(t *testing.T, start starter) {
			up := closedPort(t)
			_, addr := start(t, hasty(up))
			got := exchange(t, network, addr, withEDNS(query("a.example.org", dns.TypeA), 1232))
			if want := "SERVFAIL, 23 upstream: connection refused"; said(got, up) != want {
				t.Errorf("got %s, want %s", said(got, up), want)
			}
		})
	}
}

// A server in use that turns lame costs three names a second query, and then none until
// it is itself again: whether it refuses, fails or refers to others (RFC 9520 section 3).
func TestServerTurnsLame(t *testing.T) {
	for name, rcode := range map[string]int{"REFUSED": dns.RcodeRefused, "SERVFAIL": dns.RcodeServerFailure, "referral": dns.RcodeSuccess} {
		bothWays(t, name, func(t *testing.T, start starter) {
			answer, turned := with(t, nil, good), lame(t, rcode)
			var isLame atomic.Bool
			first := upstream(t, func(reply func([]byte), q asked) {
				if isLame.Load() {
					turned(reply, q)
				} else {
					answer(reply, q)
				}
			}, nil)
			second := upstream(t, answer, nil)
			cfg := quick(first.addr, second.addr)
			cfg.Resend = patience
			s, addr := start(t, cfg)
			p := s.own.peer(first.addr)
			p.answered(time.Hour / 2) // whatever the machine does meanwhile, nobody hedges
			s.own.peer(second.addr).answered(time.Hour / 2)
			ask := func(name string) (toFirst int) {
				before := len(first.queries())
				if got := exchange(t, "udp", addr, query(name, dns.TypeA)); got.Rcode != dns.RcodeSuccess || len(got.Answer) != 1 {
					t.Errorf("%s: got %v", name, got)
				}
				return len(first.queries()) - before
			}
			if ask("a.example.org") != 1 {
				t.Error("the first server is not asked")
			}
			isLame.Store(true)
			for i, name := range []string{"a.example.org", "a.example.org", "b.example.org", "c.example.org"} {
				if p.isDead() || ask(name) != 1 {
					t.Errorf("after %d refusals, of some for one name, the first server is not asked", i)
				}
			}
			if !p.isDead() || ask("d.example.org") != 0 {
				t.Error("the first server is asked, although it is lame")
			}
			due := func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.health.until = time.Now()
			}
			if due(); ask("d.example.org") != 1 || !p.isDead() {
				t.Error("a refusal shows that the server is well")
			}
			isLame.Store(false)
			if due(); ask("d.example.org") != 1 || p.isDead() {
				t.Error("nobody finds out that the server is well again")
			}
		})
	}
}

// An upstream that moves to another address, as a changed resolv.conf says: what was on
// its way ends where it went, and what comes next is asked at the new address, even if
// the same question has just failed at the old one. RFC 9520 section 3.2: a failure is
// one of its servers.
func TestUpstreamMoves(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		bothWays(t, network, func(t *testing.T, start starter) {
			gone := closedPort(t)
			cfg := quick(gone)
			cfg.CacheBytes = 0
			s, addr := start(t, cfg)
			ask := func() string {
				return said(exchange(t, network, addr, withEDNS(query("a.example.org", dns.TypeA), 1232)), gone)
			}
			if got := ask(); got != "SERVFAIL, 23 upstream: connection refused" {
				t.Errorf("nobody listens, and got %q", got)
			}
			answer := with(t, nil, good)
			held := holding(t, answer)
			moved := upstream(t, with(t, nil, "a.example.org. 5 IN A 192.0.2.2"), with(t, nil, "a.example.org. 5 IN A 192.0.2.2"))
			if network == "udp" {
				if err := s.Set(Settings{Upstreams: []netip.AddrPort{held.addr}}); err != nil {
					t.Fatal(err)
				}
				waiting := connect(t, "udp", addr)
				send(t, waiting, pack(t, query("a.example.org", dns.TypeA)))
				<-held.arrived
				defer func() {
					close(held.release)
					wantGood(t, unpack(t, receive(t, waiting)))
				}()
			}
			if err := s.Set(Settings{Upstreams: []netip.AddrPort{moved.addr}}); err != nil {
				t.Fatal(err)
			}
			got := exchange(t, network, addr, query("a.example.org", dns.TypeA))
			if diff := slices.Compare(lines(got.Answer), []string{"a.example.org. 5 IN A 192.0.2.2"}); diff != 0 {
				t.Errorf("got %v", got)
			}
		})
	}
}
