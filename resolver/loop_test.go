// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// relay is an upstream that asks another server over UDP, as forwarders do.
func relayTo(t *testing.T, to netip.AddrPort) *nameserver {
	t.Helper()
	var pending sync.WaitGroup
	end := make(chan struct{})
	up := upstream(t, func(reply func([]byte), q asked) {
		pending.Go(func() {
			conn, err := net.Dial("udp", to.String())
			if err != nil {
				return
			}
			defer conn.Close()
			go func() {
				<-end
				_ = conn.SetDeadline(time.Unix(1, 0))
			}()
			_, _ = conn.Write(q.wire)
			buf := make([]byte, maxWire)
			if n, err := conn.Read(buf); err == nil {
				reply(buf[:n])
			}
		})
	}, nil)
	t.Cleanup(func() {
		close(end)
		pending.Wait()
	})
	return up
}

func asksFor(t *testing.T, up *nameserver, name string) int {
	n := 0
	for _, q := range up.queries() {
		if strings.HasSuffix(unpack(t, q.wire).Question[0].Name, name) {
			n++
		}
	}
	return n
}

// An upstream that asks us is noticed: the client hears why, later ones at once, and
// where there is another upstream nobody hears of it. RFC 5625 section 3.
func TestLoopThroughAnother(t *testing.T) {
	for _, tc := range []struct {
		name   string
		others bool
	}{{"alone", false}, {"with another", true}} {
		bothWays(t, tc.name, func(t *testing.T, start starter) {
			second := upstream(t, with(t, nil, good), nil)
			s, addr := start(t, Config{CacheBytes: -1, Resend: 50 * time.Millisecond, Timeout: patience})
			looping := relayTo(t, addr)
			ups := []netip.AddrPort{looping.addr}
			if tc.others {
				ups = append(ups, second.addr)
			}
			if err := s.Set(Settings{Upstreams: ups}); err != nil {
				t.Fatal(err)
			}
			ask := func(name string) *dns.Msg {
				return exchange(t, "udp", addr, withEDNS(query(name, dns.TypeA), 1232))
			}
			const words = "SERVFAIL, 23 upstream: leads back to this resolver"
			first := ask("a.example.org")
			if tc.others {
				wantGood(t, first)
				return
			}
			if got := said(first, looping.addr); got != words {
				t.Errorf("got %q, want %q", got, words)
			}
			if got := said(ask("b.example.org"), looping.addr); got != words || asksFor(t, looping, "b.example.org.") != 0 {
				t.Errorf("the next question is answered %q, after %d copies", got, asksFor(t, looping, "b.example.org."))
			}
			if n := s.metrics.loops.Load(); n != 1 || asksFor(t, looping, "dnsteer-loop.") != 1 {
				t.Errorf("%d loops counted, %d checks", n, asksFor(t, looping, "dnsteer-loop."))
			}
			p := s.own.peer(looping.addr)
			p.loopsUntil.Store(0)
			if err := s.Set(Settings{Upstreams: []netip.AddrPort{second.addr}}); err != nil {
				t.Fatal(err)
			}
			wantGood(t, ask("a.example.org"))
		})
	}
}

// The checks of other resolvers go their way, and no silence is taken for a loop.
func TestLoopCheckOfOthers(t *testing.T) {
	silent := upstream(t, nil, nil)
	s, addr := start(t, hasty(silent.addr))
	got := exchange(t, "udp", addr, withEDNS(query("0123456789abcdef.dnsteer-loop", dns.TypeA), 1232))
	if said(got, silent.addr) != silentWords || s.metrics.loops.Load() != 0 {
		t.Errorf("got %q, %d loops", said(got, silent.addr), s.metrics.loops.Load())
	}
	var names []string
	for _, q := range silent.queries() {
		names = append(names, unpack(t, q.wire).Question[0].Name)
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) != 2 { // theirs, and ours about the silence
		t.Errorf("asked for %v", names)
	}
}
