// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/probe"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// state is what there is in the client's namespace besides the client.
type state string

const (
	stateAbsent     state = "absent"      // no datapath: what the kernel does by itself
	stateUp         state = "up"          // an authorised, live resolver
	stateSealed     state = "sealed"      // the same, with listeners that are to outlive it
	stateDead       state = "dead"        // it was there and is gone
	stateLeft       state = "left"        // the same, but its listeners are there
	stateHung       state = "hung"        // it is there, its heartbeat is not
	stateClosedDead state = "closed-dead" // the same, in a scope that fails closed
	stateClosedHung state = "closed-hung"
	stateStranger   state = "stranger" // somebody else listens on the target
	stateForeign    state = "foreign"  // the same, enrolled by the namespace's cookie
)

func (s state) closed() bool { return s == stateClosedDead || s == stateClosedHung }

// userIDs is where the users of a container are in the initial user namespace: UID
// 1337 in there is 101337.
const userIDs = 100000

// names are the addresses that a socket of one family deals with, as AddrPorts of
// package netip: IPv4 is never mapped here.
type names struct {
	first, other netip.AddrPort // nameservers: the scope's primary one, another
	target       netip.AddrPort // the resolver itself
	source       netip.Addr     // the client's own address
	alternative  netip.Addr     // another of its own, which the kernel does not choose
}

func namesOf(f probe.Family) names {
	if f == probe.V4 || f == probe.Mapped {
		return names{
			first:  netip.MustParseAddrPort("192.0.2.53:53"),
			other:  netip.MustParseAddrPort("192.0.2.54:53"),
			target: netip.MustParseAddrPort("127.0.0.1:15053"),
			source: netip.MustParseAddr("192.0.2.1"), alternative: netip.MustParseAddr("192.0.2.2"),
		}
	}
	return names{
		first:  netip.MustParseAddrPort("[2001:db8::53]:53"),
		other:  netip.MustParseAddrPort("[2001:db8::54]:53"),
		target: netip.MustParseAddrPort("[::1]:15053"),
		source: netip.MustParseAddr("2001:db8::1"), alternative: netip.MustParseAddr("2001:db8::2"),
	}
}

// world is a client and its nameservers in one state.
type world struct {
	state    state
	userIDs  int // where the client's users begin: 0, or those of a user namespace
	client   *testenv.NetNS
	server   *testenv.NetNS
	cgroup   *testenv.Cgroup
	datapath *loader.Datapath // nil in stateAbsent
	resolver *resolver        // nil if there never was one of ours
	probe    *probe.Child
	agent    bool // it is dnsteer-agent that resolves
	blind    bool // the kernel has no BTF, so that the datapath sees less

	seen counts // when the counters were last looked at

	listeners *loader.Listeners // that outlive the resolver, or nil
}

var preflight = sync.OnceValue(func() []loader.Finding { return loader.Preflight(loader.Options{}) })

// kernelHas tells whether a check of the preflight is content.
func kernelHas(check string) bool {
	return slices.ContainsFunc(preflight(), func(f loader.Finding) bool { return f.Check == check && f.Severity == loader.OK })
}

// newWorld makes a world without anything that listens on the target.
func newWorld(tb testing.TB, s state, userIDs int, opts loader.Options) *world {
	tb.Helper()
	if _, err := os.Stat("/proc/self/ns/user"); userIDs > 0 && err != nil {
		tb.Skip("the kernel has no user namespaces (CONFIG_USER_NS)")
	}
	w := &world{state: s, userIDs: userIDs, cgroup: testenv.NewCgroup(tb), blind: !kernelHas("kernel BTF")}
	w.client, w.server = testenv.NewLink(tb)
	for _, f := range []probe.Family{probe.V4, probe.V6} {
		testenv.Nameserver(tb, w.server, namesOf(f).first, nil)
		testenv.Nameserver(tb, w.server, namesOf(f).other, nil)
	}
	addAlternatives(tb, w.client)
	if s != stateAbsent {
		var err error
		opts.Cgroup = w.cgroup.Path
		if w.datapath, err = loader.Load(opts); err != nil {
			tb.Fatalf("load: %+v", err)
		}
		tb.Cleanup(w.datapath.Close)
	}
	w.probe = probe.Start(tb, probe.Options{NetNS: w.client, Cgroup: w.cgroup, UserIDs: userIDs})
	return w
}

// addAlternatives gives the client its second addresses. The kernel prefers the first
// of a subnet, and any to a deprecated one.
func addAlternatives(tb testing.TB, client *testenv.NetNS) {
	tb.Helper()
	client.Do(func() {
		link, err := netlink.LinkByName(device)
		if err != nil {
			tb.Fatalf("find %s: %v", device, err)
		}
		for _, f := range []probe.Family{probe.V4, probe.V6} {
			own := namesOf(f).alternative
			addr := &netlink.Addr{
				IPNet: &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(own.BitLen()/8*6, own.BitLen())},
			}
			if own.Is6() {
				addr.Mask = net.CIDRMask(64, 128)
				addr.Flags, addr.ValidLft = unix.IFA_F_NODAD, 3600 // preferred for 0 s: deprecated
			}
			if err := netlink.AddrAdd(link, addr); err != nil {
				tb.Fatalf("add %s: %v", own, err)
			}
		}
	})
}

// worldIn makes a world and brings it into its state.
func worldIn(tb testing.TB, s state, userIDs int) *world {
	tb.Helper()
	return worldWith(tb, s, userIDs, loader.Options{})
}

// worldWith is worldIn with options of the datapath.
func worldWith(tb testing.TB, s state, userIDs int, opts loader.Options) *world {
	tb.Helper()
	w := newWorld(tb, s, userIDs, opts)
	switch s {
	case stateAbsent:
		return w
	case stateStranger, stateForeign:
		for _, f := range []probe.Family{probe.V4, probe.V6} {
			testenv.Nameserver(tb, w.client, namesOf(f).target, text("foreign"))
		}
	case stateSealed, stateLeft:
		w.keepListeners(tb)
		w.resolver = startResolverOn(tb, w.client, w.datapath, w.scope(), w.listeners)
	default:
		w.resolver = startResolver(tb, w.client, w.datapath, w.scope())
	}
	if s == stateForeign || s.closed() {
		w.enrolNamespace(tb, s == stateForeign)
	}
	switch s {
	case stateDead, stateLeft, stateClosedDead:
		w.resolver.close()
	case stateHung, stateClosedHung:
		w.resolver.hang(tb)
	}
	return w
}

// keepListeners opens those of resolvers that come and go.
func (w *world) keepListeners(tb testing.TB) {
	tb.Helper()
	w.client.Do(func() {
		var err error
		if w.listeners, err = loader.Listen(w.datapath.Port()); err != nil {
			tb.Fatalf("listen: %v", err)
		}
	})
	tb.Cleanup(w.listeners.Close)
}

func (w *world) scope() loader.Scope {
	owner := uint32(w.userIDs + probe.Owner1337)
	return loader.Scope{
		OwnerUID: owner, OwnerGID: owner,
		PrimaryIPv4: namesOf(probe.V4).first.Addr(),
		PrimaryIPv6: namesOf(probe.V6).first.Addr(),
		FailClosed:  w.state.closed(),
	}
}

func (w *world) enrolNamespace(tb testing.TB, foreign bool) {
	tb.Helper()
	w.client.Do(func() {
		if err := w.datapath.EnrolNamespace(w.client.Cookie(), w.scope(), foreign); err != nil {
			tb.Fatal(err)
		}
	})
}

// text answers every question with one text.
func text(s string) dns.Handler {
	return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { answerText(w, q, s) })
}

// counts is how often each verdict was given.
type counts map[verdict]uint64

type verdict struct {
	Verdict loader.Verdict
	Family  string
	Proto   string
}

// counted calls f and returns by how much it changed the counters.
func (w *world) counted(tb testing.TB, f func()) counts {
	tb.Helper()
	w.seen = w.counts(tb)
	f()
	return w.change(tb)
}

// change is by how much the counters have changed since they were last seen.
func (w *world) change(tb testing.TB) counts {
	tb.Helper()
	before := w.seen
	w.seen = w.counts(tb)
	change := counts{}
	for v, n := range w.seen {
		if n != before[v] {
			change[v] = n - before[v]
		}
	}
	return change
}

func (w *world) counts(tb testing.TB) counts {
	tb.Helper()
	all := counts{}
	if w.datapath == nil {
		return all
	}
	list, err := w.datapath.Counts()
	if err != nil {
		tb.Fatal(err)
	}
	for _, c := range list {
		all[verdict{c.Verdict, c.Family, c.Proto}] = c.Calls
	}
	return all
}
