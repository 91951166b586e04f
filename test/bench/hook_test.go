// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

var nameserver = netip.MustParseAddrPort("192.0.2.53:53")

// BenchmarkHook measures system calls with and without the datapath.
func BenchmarkHook(b *testing.B) {
	const batch = 500
	ns, with, without := testenv.NewNetNS(b), testenv.NewCgroup(b), testenv.NewCgroup(b)
	addNameserver(b, ns)
	datapath := steer(b, ns, with)
	on, off := newSide(b, ns, with, nameserver), newSide(b, ns, without, nameserver)
	for _, bc := range []struct {
		call    call
		steered bool
	}{
		{connectDNS, true},
		{sendDNS, true},
		{connectOther, false},
		{sendOther, false},
	} {
		b.Run("call="+string(bc.call), func(b *testing.B) {
			before := steered(b, datapath)
			inTurns(b, bc.call, batch, off, on)
			b.StopTimer()
			if got, want := steered(b, datapath)-before, on.calls+batch; bc.steered && got != want {
				b.Errorf("%d calls were steered, want %d", got, want)
			}
			b.ReportMetric(median(off.wall), "without-ns/call")
			b.ReportMetric(median(on.wall), "with-ns/call")
			b.ReportMetric(median(on.wall)-median(off.wall), "added-ns/call")
		})
	}
}

// addNameserver gives the namespace the nameserver's address, so that a datagram goes
// the same way to it as to a resolver, and sockets that drop what they get.
func addNameserver(tb testing.TB, ns *testenv.NetNS) {
	tb.Helper()
	handle, err := netlink.NewHandleAt(netns.NsHandle(ns.File().Fd()))
	if err != nil {
		tb.Fatalf("open netlink: %v", err)
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err == nil {
		addr := netlink.NewIPNet(nameserver.Addr().AsSlice())
		err = handle.AddrAdd(lo, &netlink.Addr{IPNet: addr})
	}
	if err != nil {
		tb.Fatalf("add %s to lo: %v", nameserver.Addr(), err)
	}
	for _, port := range []uint16{dnsPort, otherPort} {
		var conn *net.UDPConn
		ns.Do(func() {
			conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(nameserver.Addr(), port)))
		})
		if err != nil {
			tb.Fatalf("listen: %v", err)
		}
		tb.Cleanup(func() { conn.Close() })
		drop(tb, conn)
	}
}

// drop makes a socket drop every datagram as it arrives.
func drop(tb testing.TB, conn *net.UDPConn) {
	tb.Helper()
	nothing, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}})
	if err == nil {
		err = ipv4.NewPacketConn(conn).SetBPF(nothing)
	}
	if err != nil {
		tb.Fatalf("drop datagrams: %v", err)
	}
}

// steer loads the datapath for a cgroup and enrols the namespace.
func steer(tb testing.TB, ns *testenv.NetNS, cgroup *testenv.Cgroup) *loader.Datapath {
	tb.Helper()
	datapath, err := loader.Load(loader.Options{Cgroup: cgroup.Path})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(datapath.Close)
	var enrolment *loader.Enrolment
	ns.Do(func() {
		kept, err := loader.Listen(datapath.Port())
		if err != nil {
			tb.Fatal(err)
		}
		defer kept.Close()
		listeners, err := kept.Seal() // as run and exec do
		if err != nil {
			tb.Fatal(err)
		}
		if enrolment, err = datapath.Attend(listeners); err != nil {
			tb.Fatal(err)
		}
		err = enrolment.Enrol(loader.Scope{
			OwnerUID: loader.DefaultOwner, OwnerGID: loader.DefaultOwner, PrimaryIPv4: nameserver.Addr(),
		})
		if err != nil {
			tb.Fatal(err)
		}
	})
	tb.Cleanup(enrolment.Close)
	conns, err := enrolment.Listeners.UDP()
	if err != nil {
		tb.Fatal(err)
	}
	for _, conn := range conns {
		drop(tb, conn) // of the socket, whichever descriptor
		conn.Close()
	}
	beat(tb, enrolment)
	return datapath
}

// beat keeps the scope alive.
func beat(tb testing.TB, enrolment *loader.Enrolment) {
	tb.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(loader.HeartbeatInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := enrolment.Beat(); err != nil {
				tb.Error(err)
			}
		}
	}()
	tb.Cleanup(func() { stop(); <-ended })
}

func steered(tb testing.TB, datapath *loader.Datapath) int {
	tb.Helper()
	counts, err := datapath.Counts()
	if err != nil {
		tb.Fatal(err)
	}
	total := 0
	for _, c := range counts {
		if c.Verdict == loader.Steered {
			total += int(c.Calls)
		}
	}
	return total
}
