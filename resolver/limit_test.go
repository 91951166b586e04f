// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// A server that is silent takes three quarters of the turns at most, in a scope and of
// all: whoever asks another one has its answer.
func TestSilentUpstreamLeavesTurns(t *testing.T) {
	const most = 8
	for _, warm := range []bool{false, true} { // with a goroutine for each query, and without
		t.Run(fmt.Sprintf("no goroutine %t", warm), func(t *testing.T) {
			well := upstream(t, with(t, nil, good), nil)
			cfg := quick(well.addr)
			cfg.Resend, cfg.MaxForwards = time.Second, most
			s, addr, _ := startAborting(t, cfg)
			silent := routeToSilence(t, s)
			if warmPorts(t, s); warm {
				for range maxPorts {
					if _, err := s.own.peer(silent.addr).open(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			var refused []string
			for i := range most {
				name := fmt.Sprintf("n%d.silent.example.org.", i)
				q := withEDNS(query(name, dns.TypeA), 1232)
				if i >= most-most/turnsKept {
					refused = append(refused, fmtEDE(exchange(t, "udp", addr, q)))
					continue
				}
				send(t, connect(t, "udp", addr), pack(t, q))
				testenv.Eventually(t, patience, func() error {
					if !slices.ContainsFunc(silent.queries(), func(q asked) bool { return unpack(t, q.wire).Question[0].Name == name }) {
						return fmt.Errorf("%s has not come", name)
					}
					return nil
				})
			}
			if want := strings.Repeat("|0 6 queries already wait for the same upstreams", 2); "|"+strings.Join(refused, "|") != want {
				t.Errorf("refused with %q", refused)
			}
			wantGood(t, exchange(t, "udp", addr, query("a.example.org", dns.TypeA)))
		})
	}
	t.Run("scopes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			answer := says(t, nil, good)
			end := &oracle{tb: t, answer: func(req *Request) (*Response, error) {
				if req.upstreams[0] == plain(shared1) {
					pass(time.Hour)
				}
				return answer(req)
			}}
			s := before(t, Config{MaxForwards: most}, end)
			asks := func(server netip.AddrPort) *Scope {
				return newScope(t, s, ScopeConfig{MaxForwards: most, Settings: Settings{Upstreams: []netip.AddrPort{server}}})
			}
			first := asks(shared1)
			for i, sc := range []*Scope{first, asks(shared1)} {
				for j := range most {
					in := packetOf(t, query(fmt.Sprintf("n%d-%d.example.org", i, j), dns.TypeA))
					go func() { _ = sc.answer(t.Context(), in, func([]byte) error { return nil }) }()
					synctest.Wait()
				}
			}
			if got, want := end.asked(), most-most/turnsKept; got != want {
				t.Errorf("%d queries wait for the slow server, want %d", got, want)
			}
			other := asks(shared2)
			for host := shared2.Addr(); other.settings.Load().routes.all.set.lot() == first.settings.Load().routes.all.set.lot(); host = host.Next() {
				other = asks(netip.AddrPortFrom(host, 53))
			}
			wantGood(t, askScope(t, other, query("a.example.org", dns.TypeA)))
			pass(2 * time.Hour)
		})
	})
}

// routeToSilence routes silent.example.org to a silent server that has a lot of its own.
func routeToSilence(t *testing.T, s *Server) *nameserver {
	t.Helper()
	for {
		silent := upstream(t, nil, nil)
		err := s.Set(Settings{Routes: []Route{{Suffix: "silent.example.org", Upstreams: []Upstream{plain(silent.addr)}}}})
		if err != nil {
			t.Fatal(err)
		}
		routes := s.own.settings.Load().routes
		if routes.find([]byte(mustName("silent.example.org"))).set.lot() != routes.all.set.lot() {
			return silent
		}
	}
}
