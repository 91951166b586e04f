// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// peersNamed makes peers whose names are the last octet of their address.
func peersNamed(t *testing.T, sc *Scope, n int) []*peer {
	t.Helper()
	var list []*peer
	for i := range n {
		list = append(list, sc.peer(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 53)))
	}
	return list
}

// order is the last octets of the peers in the order in which they are asked.
func order(sc *Scope, list []*peer) string {
	var words []string
	for _, p := range sc.choose(sc.settings.Load(), list) {
		words = append(words, string('0'+p.up.addr.Addr().As4()[3]))
	}
	return strings.Join(words, "")
}

func TestChoice(t *testing.T) {
	names := []wireName{"\x01a\x00", "\x01b\x00", "\x01c\x00"}
	refused := error(unix.ECONNREFUSED)
	for _, tc := range []struct {
		name string
		do   func(list []*peer)
		want string
	}{
		{"nothing is known", func([]*peer) {}, "123"},
		{"about as fast", func(l []*peer) {
			l[0].answered(15 * time.Millisecond)
			l[1].answered(10 * time.Millisecond)
			l[2].answered(12 * time.Millisecond)
		}, "123"},
		{"all are near", func(l []*peer) {
			l[0].answered(time.Millisecond)
			l[1].answered(20 * time.Microsecond)
			l[2].answered(900 * time.Microsecond)
		}, "123"},
		{"the second is faster", func(l []*peer) {
			l[0].answered(100 * time.Millisecond)
			l[1].answered(10 * time.Millisecond)
			l[2].answered(50 * time.Millisecond)
		}, "231"},
		{"unknown ones are tried", func(l []*peer) { l[0].answered(100 * time.Millisecond) }, "231"},
		{"a slow one is tried again", func(l []*peer) {
			l[0].answered(100 * time.Millisecond)
			pass(10 * halfLife)
			l[1].answered(10 * time.Millisecond)
			l[2].answered(10 * time.Millisecond)
		}, "123"},
		{"one name, again and again", func(l []*peer) {
			for range 100 {
				l[0].owes(names[0])
			}
		}, "123"},
		{"three names", func(l []*peer) {
			for _, name := range names {
				l[0].owes(name)
			}
		}, "231"},
		{"three names, and an answer between", func(l []*peer) {
			l[0].owes(names[0])
			l[0].owes(names[1])
			l[0].answered(time.Millisecond)
			l[0].owes(names[2])
		}, "123"},
		{"nobody is there", func(l []*peer) { l[0].failed(refused) }, "231"},
		{"a connection that ends says nothing", func(l []*peer) { l[0].failed(errClosed) }, "123"},
		{"one query finds out", func(l []*peer) {
			l[0].failed(refused)
			pass(firstBackOff)
		}, "123"},
		{"but one only", func(l []*peer) {
			l[0].failed(refused)
			pass(firstBackOff)
			l[0].asks()
		}, "231"},
		{"and then later", func(l []*peer) {
			l[0].failed(refused)
			pass(firstBackOff)
			l[0].asks()
			l[0].failed(refused)
			pass(firstBackOff)
		}, "231"},
		{"but for certain", func(l []*peer) {
			l[0].failed(refused)
			pass(firstBackOff)
			l[0].asks()
			l[0].failed(refused)
			pass(2 * firstBackOff)
		}, "123"},
		{"it is back", func(l []*peer) {
			l[0].failed(refused)
			l[0].answered(time.Millisecond)
		}, "123"},
		{"all are dead", func(l []*peer) {
			for _, p := range l {
				p.failed(refused)
			}
		}, "123"},
		{"others win again and again", func(l []*peer) {
			for _, p := range l {
				p.answered(5 * time.Millisecond)
			}
			for range 5 {
				l[0].late(60 * time.Millisecond)
			}
		}, "231"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sc := bare(t, nil).own
				list := peersNamed(t, sc, 3)
				tc.do(list)
				if got := order(sc, list); got != tc.want {
					t.Errorf("got %s, want %s", got, tc.want)
				}
			})
		})
	}
}

// resolv.conf's rotate spreads queries over all servers that are not dead.
func TestRotate(t *testing.T) {
	sc := bare(t, nil).own
	if err := sc.Set(Settings{Rotate: true}); err != nil {
		t.Fatal(err)
	}
	list := peersNamed(t, sc, 3)
	list[0].answered(time.Millisecond)
	list[1].answered(100 * time.Millisecond)
	var got []string
	for range 4 {
		got = append(got, order(sc, list))
	}
	if want := []string{"231", "312", "123", "231"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	list[1].failed(unix.ECONNREFUSED)
	for range 3 {
		if o := order(sc, list); o[2] != '2' {
			t.Errorf("a dead one stands in %s", o)
		}
	}
}

// A server that is later than usual is not waited for: another one is asked as well,
// and the first answer counts. Such hedges are few.
func TestHedge(t *testing.T) {
	bothWays(t, "late", func(t *testing.T, start starter) {
		slow, fast := upstream(t, nil, nil), upstream(t, with(t, nil, good), nil)
		cfg := quick(slow.addr, fast.addr)
		cfg.Resend = patience / 2
		s, addr := start(t, cfg)
		usual := func() { s.own.peer(slow.addr).answered(time.Millisecond) }
		usual()
		s.own.peer(fast.addr).answered(time.Millisecond)
		s.own.hedges.credit.Store(2 * hedgeCost)
		begin := time.Now()
		wantGood(t, exchange(t, "udp", addr, query("a.example.org", dns.TypeA)))
		if took := time.Since(begin); took < minHedge || took > patience/2 {
			t.Errorf("took %s", took)
		}
		if len(slow.queries()) != 1 {
			t.Error("the slow one was not asked")
		}
		testenv.Eventually(t, patience, func() error {
			p := s.own.peer(slow.addr)
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.health.usual <= time.Millisecond {
				return errors.New("its lateness is not remembered")
			}
			return nil
		})
	})
	t.Run("few", func(t *testing.T) {
		var h hedges
		paid := 0
		for range 100 * hedgeCost {
			if h.earn(); h.pay() {
				paid++
			}
		}
		if paid > 100 || paid < 90 {
			t.Errorf("%d hedges in %d queries", paid, 100*hedgeCost)
		}
		for range 1000 * hedgeCost {
			h.earn()
		}
		for paid = 0; h.pay(); paid++ {
		}
		if paid != hedgeBurst {
			t.Errorf("%d hedges at once", paid)
		}
	})
}

// The query that finds out whether a dead server is back does not wait for it.
func TestProbeIsQuick(t *testing.T) {
	bothWays(t, "still dead", func(t *testing.T, start starter) {
		silent, alive := upstream(t, nil, nil), upstream(t, with(t, nil, good), nil)
		cfg := quick(silent.addr, alive.addr)
		cfg.Resend = patience / 2
		s, addr := start(t, cfg)
		p := s.own.peer(silent.addr)
		p.mu.Lock()
		p.health.backOff, p.health.until = time.Second, time.Now()
		p.mu.Unlock()
		s.own.hedges.credit.Store(-hedgeCost)
		begin := time.Now()
		wantGood(t, exchange(t, "udp", addr, query("a.example.org", dns.TypeA)))
		if took := time.Since(begin); took > patience/2 || len(silent.queries()) != 1 {
			t.Errorf("took %s, %d probes", took, len(silent.queries()))
		}
	})
}

// What the clients' resolv.conf says of timeout and attempts is followed: the failure
// comes before the client stops listening.
func TestTimeoutAndAttempts(t *testing.T) {
	bothWays(t, "followed", func(t *testing.T, start starter) {
		up := upstream(t, nil, nil)
		s, addr := start(t, Config{Upstreams: []netip.AddrPort{up.addr}})
		if err := s.own.Set(Settings{Timeout: time.Second, Attempts: 2}); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		got := exchange(t, "udp", addr, withEDNS(query("a.example.org", dns.TypeA), 1232))
		if !strings.HasSuffix(fmtEDE(got), "timed out after 2 tries in 900ms") {
			t.Errorf("got %q", fmtEDE(got))
		}
		if took := time.Since(begin); took < 800*time.Millisecond || took > 3*time.Second {
			t.Errorf("took %s", took)
		}
	})
	for name, tc := range map[string]struct {
		given Settings
		want  pace
	}{
		"nothing":       {Settings{}, pace{timeout, resend, tries}},
		"usual":         {Settings{Timeout: 5 * time.Second, Attempts: 2}, pace{4500 * time.Millisecond, resend, 2}},
		"short":         {Settings{Timeout: time.Second}, pace{900 * time.Millisecond, 300 * time.Millisecond, tries}},
		"long":          {Settings{Timeout: 30 * time.Second}, pace{27 * time.Second, resend, tries}},
		"out of bounds": {Settings{Timeout: time.Hour, Attempts: 99}, pace{27 * time.Second, resend, maxAttempts}},
	} {
		cfg, err := Config{}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		if got := cfg.pace(tc.given); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
	if err := bare(t, nil).own.Set(Settings{Attempts: -1}); err == nil || err.Error() != "a timeout or number of attempts is negative" {
		t.Errorf("got %v", err)
	}
}

// A dead server is not asked first any more: what it would cost, no query pays.
func TestDeadServerIsLeft(t *testing.T) {
	bothWays(t, "silent", func(t *testing.T, start starter) {
		silent, alive := upstream(t, nil, nil), upstream(t, with(t, nil, good), nil)
		cfg := quick(silent.addr, alive.addr)
		cfg.Resend = patience
		s, addr := start(t, cfg)
		for _, name := range []wireName{"\x01x\x00", "\x01y\x00", "\x01z\x00"} {
			s.own.peer(silent.addr).owes(name)
		}
		wantGood(t, exchange(t, "udp", addr, query("a.example.org", dns.TypeA)))
		if n := len(silent.queries()); n != 0 {
			t.Errorf("the silent one was asked %d times", n)
		}
	})
}

// Names without an answer make a server a dead one on both ways; one name does not.
func TestSilenceIsNoted(t *testing.T) {
	bothWays(t, "names", func(t *testing.T, start starter) {
		silent := upstream(t, nil, nil)
		s, addr := start(t, hasty(silent.addr))
		p := s.own.peer(silent.addr)
		for i, name := range []string{"x.example.org", "x.example.org", "y.example.org", "z.example.org"} {
			exchange(t, "udp", addr, query(name, dns.TypeA))
			if dead := p.isDead(); dead != (i == 3) {
				t.Errorf("after %d questions: dead %t", i+1, dead)
			}
		}
	})
}
