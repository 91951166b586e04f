// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/probe"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// askEach asks each server from one unconnected socket, all before the first answer is
// read, and fails unless each answer is about, and from, the server that was asked.
func askEach(t *testing.T, child *probe.Child, f probe.Family, servers []netip.AddrPort) {
	t.Helper()
	spec := probe.Spec{Family: f, Owner: probe.OwnerNone}
	var want []probe.Answer
	for i, server := range servers {
		spec.Steps = append(spec.Steps, to(probe.SendTo, server))
		want = append(want, probe.Answer{Question: i, Text: "resolver origin=" + server.Addr().String(), From: shownBy(f, server)})
	}
	for range servers {
		spec.Steps = append(spec.Steps, call(probe.RecvFrom))
	}
	got := child.Run(t, spec)
	if diff := cmp.Diff(want, got.Answers, same()...); diff != "" {
		t.Errorf("%s: %s %s, answers (-want +got):\n%s", f, got.Stage, got.Errno, diff)
	}
}

func shownBy(f probe.Family, a netip.AddrPort) netip.AddrPort {
	if f == probe.V4 {
		return a
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

// manyServers are n nameservers that exist only as numbers.
func manyServers(n int, prefix string) (out []netip.AddrPort) {
	addr := netip.MustParseAddr(prefix)
	for range n {
		addr = addr.Next()
		out = append(out, netip.AddrPortFrom(addr, 53))
	}
	return out
}

func TestManyServersOnOneSocket(t *testing.T) {
	const n = 120 // the default receive buffer holds 166 answers, on Linux 5.10 and 6.1
	w := worldIn(t, stateUp, 0)
	v4, v6 := manyServers(n, "198.51.100.0"), manyServers(n, "2001:db8:53::")
	askEach(t, w.probe, probe.V4, v4)
	askEach(t, w.probe, probe.Mapped, v4)
	askEach(t, w.probe, probe.V6, v6)
	var mixed []netip.AddrPort
	for i := range n / 2 {
		mixed = append(mixed, v4[i], v6[i])
	}
	askEach(t, w.probe, probe.V6, mixed)
}

// TestConcurrentFirstUse has several processes ask the same new nameservers at once:
// each gets one number, and every call is counted.
func TestConcurrentFirstUse(t *testing.T) {
	const processes, servers = 6, 120
	w := worldIn(t, stateUp, 0)
	all := append(manyServers(servers/2, "203.0.113.0"), manyServers(servers/2, "2001:db8:113::")...)
	var children []*probe.Child
	for range processes {
		children = append(children, probe.Start(t, probe.Options{NetNS: w.client, Cgroup: w.cgroup}))
	}
	var wg sync.WaitGroup
	got := w.counted(t, func() {
		for _, child := range children {
			wg.Go(func() { askEach(t, child, probe.V6, all) })
		}
		wg.Wait()
	})
	const calls = processes * servers / 2
	want := counts{
		{loader.Steered, "ipv4", "udp"}: calls, {loader.Restored, "ipv4", "udp"}: calls,
		{loader.Steered, "ipv6", "udp"}: calls, {loader.Restored, "ipv6", "udp"}: calls,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	w.resolver.mu.Lock()
	defer w.resolver.mu.Unlock()
	holders := make(map[netip.Addr]string)
	for text, locals := range w.resolver.seen {
		if len(locals) != 1 {
			t.Errorf("%s has %d tags", text, len(locals))
		}
		for local := range locals {
			if other := holders[local]; other != "" {
				t.Errorf("%s is the tag of %s and %s", local, other, text)
			}
			holders[local] = text
		}
	}
	if len(holders) != servers {
		t.Errorf("%d tags, want %d", len(holders), servers)
	}
}

// TestTwoScopes has two namespaces share one datapath, each with the other's secondary
// nameserver as its primary.
func TestTwoScopes(t *testing.T) {
	a := worldIn(t, stateUp, 0)
	n := namesOf(probe.V4)
	client, _ := testenv.NewLink(t)
	scope := a.scope()
	scope.PrimaryIPv4, scope.PrimaryIPv6 = n.other.Addr(), namesOf(probe.V6).other.Addr()
	startResolver(t, client, a.datapath, scope)
	b := probe.Start(t, probe.Options{NetNS: client, Cgroup: a.cgroup})

	var wg sync.WaitGroup
	for _, child := range []*probe.Child{a.probe, b} {
		wg.Go(func() {
			for range 20 {
				askEach(t, child, probe.V4, []netip.AddrPort{n.first, n.other, n.first})
				askEach(t, child, probe.V6, []netip.AddrPort{n.other, namesOf(probe.V6).first, namesOf(probe.V6).other, n.first})
			}
		})
	}
	wg.Wait()
}

// TestForwardThenReverseIsIdentity asks nameservers of any address, the odd ones among
// them, connected and not: whatever was asked is what the application sees.
func TestForwardThenReverseIsIdentity(t *testing.T) {
	const samples = 300
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := worldIn(t, stateUp, 0)
	odd := addrs("127.0.0.1", "127.0.0.53", "127.53.0.0", "127.53.255.255", "192.0.2.1", "192.0.2.53", "0.0.0.1",
		"10.96.0.10", "::1", "fd64:6e73:7465:3acd::1", "fd64:6e73:7465::1", "2001:db8::1", "2001:db8::53", "::7f00:1", "64:ff9b::c000:235")
	for i := range samples {
		var addr netip.Addr
		if i < len(odd) {
			addr = odd[i]
		} else {
			addr = randomAddr(random)
		}
		f := probe.V4
		if addr.Is6() {
			f = probe.V6
		} else if random.IntN(2) == 0 {
			f = probe.Mapped
		}
		server := netip.AddrPortFrom(addr, 53)
		sequence := steps(to(probe.SendTo, server), call(probe.RecvFrom))
		want := probe.Result{Answers: []probe.Answer{{Text: "resolver origin=" + addr.String(), From: shownBy(f, server)}}}
		if random.IntN(2) == 0 {
			sequence = steps(to(probe.Connect, server), call(probe.Send), call(probe.RecvMsg))
			want.Peer = shownBy(f, server)
		}
		got := w.probe.Run(t, probe.Spec{Family: f, Owner: probe.OwnerNone, Steps: sequence})
		got.Local = netip.AddrPort{}
		if diff := cmp.Diff(want, got, same()...); diff != "" {
			t.Errorf("%s (-want +got):\n%s", fmt.Sprint(f, " ", server), diff)
		}
	}
}

// randomAddr is any unicast address but a link-local one.
func randomAddr(random *rand.Rand) netip.Addr {
	for {
		var raw [16]byte
		for i := range raw {
			raw[i] = byte(random.Uint32())
		}
		addr := netip.AddrFrom16(raw)
		if random.IntN(2) == 0 {
			addr = netip.AddrFrom4([4]byte(raw[:4]))
		}
		if (addr.IsGlobalUnicast() || addr.IsLoopback()) && !addr.IsLinkLocalUnicast() {
			return addr
		}
	}
}
