// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/probe"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func prefixes(all ...string) (out []netip.Prefix) {
	for _, p := range all {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// TestNameserverLists: nameservers can be listed or excluded; the longest prefix wins.
func TestNameserverLists(t *testing.T) {
	for _, tc := range []struct {
		name         string
		only, except []netip.Prefix
		steered      []netip.Addr // of the nameservers of both families
	}{
		{"one excluded", nil, prefixes("192.0.2.53/32", "2001:db8::53/128"), addrs("192.0.2.54", "2001:db8::54")},
		{"one listed", prefixes("192.0.2.53/32"), nil, addrs("192.0.2.53")},
		{"one of a list excluded", prefixes("192.0.2.0/24", "2001:db8::/32"), prefixes("192.0.2.54/32"),
			addrs("192.0.2.53", "2001:db8::53", "2001:db8::54")},
		{"one of the excluded listed", prefixes("192.0.2.54/32"), prefixes("192.0.2.0/24"), addrs("192.0.2.54")},
		{"a family excluded", nil, prefixes("0.0.0.0/0"), addrs("2001:db8::53", "2001:db8::54")},
		{"the other excluded", nil, prefixes("2000::/3"), addrs("192.0.2.53", "192.0.2.54")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, stateUp, 0, loader.Options{Only: tc.only, Except: tc.except})
			w.resolver = startResolver(t, w.client, w.datapath, w.scope())
			want := make(map[netip.Addr]bool)
			for _, a := range tc.steered {
				want[a] = true
			}
			for _, f := range []probe.Family{probe.V4, probe.Mapped, probe.V6, probe.V6Only} {
				for _, server := range []netip.AddrPort{namesOf(f).first, namesOf(f).other} {
					w.askAndCheck(t, f, server, want[server.Addr()], loader.Excluded)
				}
			}
		})
	}
}

func addrs(all ...string) (out []netip.Addr) {
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// askAndCheck asks unconnected and expects to be steered, or left alone for a reason.
func (w *world) askAndCheck(t *testing.T, f probe.Family, server netip.AddrPort, steered bool, reason loader.Verdict) {
	t.Helper()
	family := "ipv6"
	if server.Addr().Is4() {
		family = "ipv4"
	}
	plain := server.Addr().WithZone("")
	text, want := "server="+server.Addr().String(), counts{{reason, family, "udp"}: 1}
	if steered {
		text = "resolver origin=" + plain.String()
		want = counts{{loader.Steered, family, "udp"}: 1, {loader.Restored, family, "udp"}: 1}
	}
	var result probe.Result
	got := w.counted(t, func() {
		result = w.probe.Run(t, probe.Spec{Family: f, Owner: probe.OwnerNone, Steps: steps(to(probe.SendTo, server), call(probe.RecvFrom))})
	})
	from := netip.AddrPortFrom(plain, server.Port())
	if f != probe.V4 {
		from = netip.AddrPortFrom(netip.AddrFrom16(plain.As16()), server.Port())
	}
	answers := []probe.Answer{{Text: text, From: from}}
	if diff := cmp.Diff(answers, result.Answers, same()...); diff != "" {
		t.Errorf("%s asks %s: %s, answers (-want +got):\n%s", f, server, result.Errno, diff)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s asks %s: counts (-want +got):\n%s", f, server, diff)
	}
}

// TestLinkLocalNameserver: an address that means nothing without its interface cannot
// be told to the resolver, so it is left alone.
func TestLinkLocalNameserver(t *testing.T) {
	w := worldIn(t, stateUp, 0)
	var linkLocal netip.Addr
	w.server.Do(func() {
		link, err := netlink.LinkByName(device)
		if err != nil {
			t.Fatal(err)
		}
		list, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			if addr, ok := netip.AddrFromSlice(a.IP); ok && addr.IsLinkLocalUnicast() {
				linkLocal = addr
			}
		}
	})
	server := netip.AddrPortFrom(linkLocal.WithZone(device), 53)
	testenv.Nameserver(t, w.server, server, nil)
	w.askAndCheck(t, probe.V6, server, false, loader.Bound)
}

// TestUnspecifiedNameserver: 0.0.0.0 and :: mean this host, to the kernel and so to us.
func TestUnspecifiedNameserver(t *testing.T) {
	w := worldIn(t, stateUp, 0)
	for _, f := range []probe.Family{probe.V4, probe.V6} {
		n := namesOf(f)
		got := w.probe.Run(t, probe.Spec{Family: f, Owner: probe.OwnerNone, Steps: steps(to(probe.SendTo, n.unspecified()), call(probe.RecvFrom))})
		host := netip.AddrPortFrom(n.target.Addr(), 53)
		want := []probe.Answer{{Text: "resolver origin=" + host.Addr().String(), From: host}}
		if diff := cmp.Diff(want, got.Answers, same()...); diff != "" {
			t.Errorf("%s: %s, answers (-want +got):\n%s", f, got.Errno, diff)
		}
	}
}
