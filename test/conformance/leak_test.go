// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/probe"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// leaks are what a watch saw: the sockets that leaked, and how many packets.
type leaks struct {
	Sockets []loader.Leak
	Packets []loader.LeakCount
}

// watch watches for leaks; the caller closes it. A kernel without BTF or links lets nobody
// watch: there, that is what the caller hears, and the test has no more to do.
func (w *world) watch(t *testing.T) *loader.LeakWatch {
	t.Helper()
	watch, err := w.datapath.WatchLeaks()
	for check, want := range map[string]error{"kernel BTF": loader.ErrNoBTF, "bpf_link": link.ErrNotSupported} {
		if !kernelHas(check) && errors.Is(err, want) {
			t.Skip(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return watch
}

// leaked watches while f runs. Its own fields are those that a test can know.
func (w *world) leaked(t *testing.T, f func()) leaks {
	t.Helper()
	watch := w.watch(t)
	defer watch.Close()
	f()
	watch.Stop()
	var got leaks
	for {
		leak, err := watch.Next()
		if errors.Is(err, os.ErrClosed) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got.Sockets = append(got.Sockets, leak)
	}
	var err error
	if got.Packets, err = watch.Counts(); err != nil {
		t.Fatal(err)
	}
	if n, err := watch.Untold(); n != 0 || err != nil {
		t.Errorf("%d leaks were not told, %v", n, err)
	}
	return got
}

// leak is one that the probe makes.
func (w *world) leak(reason loader.LeakReason, family, proto string, server netip.AddrPort) loader.Leak {
	return loader.Leak{
		Reason: reason, Family: family, Proto: proto, Server: server.Addr(),
		PID: uint32(w.probe.PID), Command: "self", Cgroup: w.cgroup.Path,
	}
}

// unknowable are the fields that the kernel chooses.
func unknowable() cmp.Option {
	return cmp.Options{
		cmpopts.IgnoreFields(loader.Leak{}, "Port", "Socket", "CgroupID", "Namespace"),
		cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty(),
	}
}

// TestLeaks has each kind of leak, with the reason that is told of it.
func TestLeaks(t *testing.T) {
	v4, v6 := namesOf(probe.V4), namesOf(probe.V6)
	comes := func(t *testing.T, w *world) { w.resolver = startResolver(t, w.client, w.datapath, w.scope()) }
	connected := func(n names) []probe.Step {
		return steps(to(probe.Connect, n.first), call(probe.Pause), call(probe.Send), call(probe.RecvFrom))
	}
	plain := func(first ...probe.Step) func(n names) []probe.Step {
		return func(n names) []probe.Step {
			return append(slices.Clone(first), to(probe.SendTo, n.first), call(probe.RecvFrom))
		}
	}
	stream := func(n names) []probe.Step {
		return steps(to(probe.Connect, n.first), call(probe.Send), call(probe.Recv))
	}
	named := func(n names) []probe.Step {
		return steps(to(probe.Connect, n.first), call(probe.Pause), to(probe.SendTo, n.first), call(probe.RecvFrom))
	}
	for _, tc := range []struct {
		name   string
		from   state
		opts   loader.Options
		family probe.Family
		stream bool
		steps  func(n names) []probe.Step
		change func(t *testing.T, w *world)
		want   loader.LeakReason
	}{
		{"connected before", stateDead, loader.Options{}, probe.V4, false, connected, comes, loader.LeakConnected},
		{"connected before", stateDead, loader.Options{}, probe.V6, false, connected, comes, loader.LeakConnected},
		{"connected before", stateDead, loader.Options{}, probe.Mapped, false, connected, comes, loader.LeakBound},
		{"connected before, names its peer", stateDead, loader.Options{}, probe.V4, false, named, comes, loader.LeakBound},
		{"bound to device", stateUp, loader.Options{}, probe.V4, false, plain(tied(probe.BindDevice)), nil, loader.LeakBound},
		{"bound to device", stateUp, loader.Options{}, probe.V6Only, false, plain(tied(probe.BindDevice)), nil, loader.LeakBound},
		{"bound to device, TCP", stateUp, loader.Options{}, probe.V6, true, func(n names) []probe.Step {
			return append(steps(tied(probe.BindDevice)), stream(n)...)
		}, nil, loader.LeakBound},
		{"IP_UNICAST_IF", stateUp, loader.Options{}, probe.V4, false, plain(tied(probe.UnicastIf)), nil, loader.LeakBound},
		{"IPV6_UNICAST_IF", stateUp, loader.Options{}, probe.V6, false, plain(tied(probe.UnicastIf6)), nil, loader.LeakBound},
		{"PKTINFO with interface", stateUp, loader.Options{}, probe.V4, false, func(n names) []probe.Step {
			return steps(probe.Step{Call: probe.SendTo, To: n.first, PktInfo: true, Device: device}, call(probe.RecvFrom))
		}, nil, loader.LeakBound},
		{"excluded", stateUp, loader.Options{Except: prefixes("192.0.2.53/32")}, probe.V4, false, plain(), nil, loader.LeakExcluded},
		{"excluded", stateUp, loader.Options{Except: prefixes("192.0.2.53/32")}, probe.Mapped, false, plain(), nil, loader.LeakExcluded},
		{"excluded, TCP", stateUp, loader.Options{Except: prefixes("2001:db8::53/128")}, probe.V6, true, stream, nil, loader.LeakExcluded},
		{"hung", stateHung, loader.Options{}, probe.V4, false, plain(), nil, loader.LeakHung},
		{"hung", stateHung, loader.Options{}, probe.V6, false, plain(), nil, loader.LeakHung},
		{"hung, TCP", stateHung, loader.Options{}, probe.V4, true, stream, nil, loader.LeakHung},
		{"dead, but enrolled by its cookie", stateDead, loader.Options{}, probe.V4, false, func(n names) []probe.Step {
			return append(steps(call(probe.Pause)), plain()(n)...)
		}, func(t *testing.T, w *world) { w.enrolNamespace(t, false) }, loader.LeakUnserved},
		{"foreign, bound to device", stateForeign, loader.Options{}, probe.V4, false, plain(tied(probe.BindDevice)), nil, loader.LeakBound},
	} {
		t.Run(fmt.Sprintf("%s/%s", tc.name, tc.family), func(t *testing.T) {
			w := worldWith(t, tc.from, 0, tc.opts)
			spec := probe.Spec{Family: tc.family, Stream: tc.stream, Owner: probe.OwnerNone, Steps: tc.steps(namesOf(tc.family))}
			var result probe.Result
			got := w.leaked(t, func() {
				result = w.probe.RunPaused(t, spec, func() { tc.change(t, w) })
			})
			if result.Errno != "" {
				t.Errorf("%s: %s", result.Stage, result.Errno)
			}
			family, proto, server := "ipv4", "udp", v4.first
			if namesOf(tc.family).first == v6.first {
				family, server = "ipv6", v6.first
			}
			if tc.stream {
				proto = "tcp"
			}
			want := leaks{Sockets: []loader.Leak{w.leak(tc.want, family, proto, server)}, Packets: []loader.LeakCount{{Reason: tc.want, Family: family, Proto: proto, Packets: 1}}}
			if tc.stream { // packets of TCP are the kernel's choice
				if len(got.Packets) == 1 && got.Packets[0].Packets > 1 {
					want.Packets[0].Packets = got.Packets[0].Packets
				}
			}
			if diff := cmp.Diff(want, got, unknowable()); diff != "" {
				t.Errorf("leaks (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLeakOfConnection: a TCP connection that was there before. The kernel does not tell who
// sends its packets, so its holder is looked for.
func TestLeakOfConnection(t *testing.T) {
	w := worldIn(t, stateDead, 0)
	n := namesOf(probe.V4)
	first, second := w.watch(t), w.watch(t) // each counts for itself
	t.Cleanup(first.Close)
	t.Cleanup(second.Close)
	pause := 0
	w.probe.RunPaused(t, probe.Spec{Family: probe.V4, Stream: true, Owner: probe.OwnerNone, Steps: steps(
		to(probe.Connect, n.first), call(probe.Send), call(probe.Recv), call(probe.Pause),
		call(probe.Send), call(probe.Pause), call(probe.Recv),
	)}, func() {
		if pause++; pause == 1 {
			w.resolver = startResolver(t, w.client, w.datapath, w.scope())
			return
		}
		for _, watch := range []*loader.LeakWatch{first, second} {
			got, err := watch.Next()
			if err != nil {
				t.Fatal(err)
			}
			want := w.leak(loader.LeakConnected, "ipv4", "tcp", n.first)
			if diff := cmp.Diff(want, got, unknowable()); diff != "" {
				t.Errorf("leak (-want +got):\n%s", diff)
			}
		}
	})
	for _, watch := range []*loader.LeakWatch{first, second} {
		counts, err := watch.Counts()
		if err != nil || len(counts) != 1 || counts[0].Reason != loader.LeakConnected || counts[0].Proto != "tcp" || counts[0].Packets == 0 {
			t.Errorf("counted %v, %v, want the query, and what TCP adds", counts, err)
		}
	}
}

// TestNothingElseLeaks: whatever is steered, refused, the owner's, or stays on this host
// is no leak, nor is anything where nobody was enrolled.
func TestNothingElseLeaks(t *testing.T) {
	families := []probe.Family{probe.V4, probe.V6, probe.Mapped, probe.V6Only}
	for _, tc := range []struct {
		state  state
		owners []probe.Owner
	}{
		{stateUp, []probe.Owner{probe.OwnerNone, probe.OwnerUID, probe.OwnerGID, probe.OwnerPassed}},
		{stateHung, []probe.Owner{probe.OwnerUID, probe.OwnerGID}},
		{stateClosedDead, []probe.Owner{probe.OwnerNone, probe.OwnerUID}},
		{stateForeign, []probe.Owner{probe.OwnerNone, probe.OwnerGID}},
		{stateDead, []probe.Owner{probe.OwnerNone}},
		{stateStranger, []probe.Owner{probe.OwnerNone}},
	} {
		t.Run(string(tc.state), func(t *testing.T) {
			w := worldIn(t, tc.state, 0)
			got := w.leaked(t, func() {
				for _, owner := range tc.owners {
					for _, sh := range slices.Concat(plainShapes(), streamShapes()) {
						if sh.resolver || strings.Contains(sh.name, "device") {
							continue
						}
						for _, f := range families {
							w.probe.Run(t, probe.Spec{Family: f, Stream: sh.stream, Owner: owner, Steps: sh.steps(namesOf(f)), Wait: sh.wait})
						}
					}
				}
			})
			if diff := cmp.Diff(leaks{}, got, unknowable()); diff != "" {
				t.Errorf("leaks (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLocalIsNoLeak: what leaves by lo does not leave.
func TestLocalIsNoLeak(t *testing.T) {
	w := worldIn(t, stateHung, 0)
	for _, f := range []probe.Family{probe.V4, probe.V6} {
		for _, addr := range []netip.Addr{namesOf(f).source, namesOf(f).target.Addr()} {
			server := netip.AddrPortFrom(addr, 53)
			testenv.Nameserver(t, w.client, server, nil)
			got := w.leaked(t, func() {
				result := w.probe.Run(t, probe.Spec{Family: f, Owner: probe.OwnerNone, Steps: steps(to(probe.SendTo, server), call(probe.RecvFrom))})
				if len(result.Answers) != 1 {
					t.Errorf("%s: %+v", server, result)
				}
			})
			if diff := cmp.Diff(leaks{}, got, unknowable()); diff != "" {
				t.Errorf("%s: leaks (-want +got):\n%s", server, diff)
			}
		}
	}
}

// TestUnknownLeak: somebody else's program makes a call to another port one to port 53,
// behind our back.
func TestUnknownLeak(t *testing.T) {
	w := worldIn(t, stateUp, 0)
	const userPort = 24 // offset in struct bpf_sock_addr
	attachProgram(t, w.cgroup, ebpf.AttachCGroupUDP4Sendmsg, asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, userPort, asm.Word),
		asm.JNE.Imm(asm.R2, int32(bigEndian(5353)), "pass"),
		asm.Mov.Imm(asm.R2, int32(bigEndian(53))),
		asm.StoreMem(asm.R1, userPort, asm.R2, asm.Word),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"),
		asm.Return(),
	})
	server := namesOf(probe.V4).first
	got := w.leaked(t, func() {
		w.probe.Run(t, probe.Spec{Family: probe.V4, Owner: probe.OwnerNone, Steps: steps(to(probe.SendTo, netip.AddrPortFrom(server.Addr(), 5353)), call(probe.RecvFrom))})
	})
	want := leaks{
		Sockets: []loader.Leak{w.leak(loader.LeakUnknown, "ipv4", "udp", server)},
		Packets: []loader.LeakCount{{Reason: loader.LeakUnknown, Family: "ipv4", Proto: "udp", Packets: 1}},
	}
	if diff := cmp.Diff(want, got, unknowable()); diff != "" {
		t.Errorf("leaks (-want +got):\n%s", diff)
	}
}

func bigEndian(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}

// TestRawLeak: packets that their sender made itself, with and without the IP header,
// and with extension headers.
func TestRawLeak(t *testing.T) {
	for _, tc := range []struct {
		name, family string
		uid          uint32
		leaks        bool
	}{
		{"ipv4", "ipv4", 0, true},
		{"ipv4-with-header", "ipv4", 0, true},
		{"ipv6", "ipv6", 0, true},
		{"ipv6-with-extension", "ipv6", 0, true},
		{"ipv4-fragment", "ipv4", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := worldIn(t, stateUp, 0)
			cmd := testenv.Command(t, "raw", tc.name)
			cmd.Stderr = os.Stderr
			w.cgroup.Enter(cmd)
			got := w.leaked(t, func() {
				w.client.Start(cmd)
				if err := cmd.Wait(); err != nil {
					t.Fatal(err)
				}
			})
			var want leaks
			if tc.leaks {
				server := namesOf(probe.V4).first
				if tc.family == "ipv6" {
					server = namesOf(probe.V6).first
				}
				leak := w.leak(loader.LeakRaw, tc.family, "udp", server)
				leak.PID = uint32(cmd.Process.Pid)
				want = leaks{[]loader.Leak{leak}, []loader.LeakCount{{Reason: loader.LeakRaw, Family: tc.family, Proto: "udp", Packets: 1}}}
			}
			if diff := cmp.Diff(want, got, unknowable()); diff != "" {
				t.Errorf("leaks (-want +got):\n%s", diff)
			}
		})
	}
}

// sendRaw sends one packet to port 53 by a raw socket. Nobody has to answer.
func sendRaw(args []string) int {
	udp := binary.BigEndian.AppendUint16(nil, 40000)
	udp = binary.BigEndian.AppendUint16(udp, 53)
	udp = binary.BigEndian.AppendUint32(udp, 8<<16) // length, no checksum
	domain, protocol, packet := unix.AF_INET, unix.IPPROTO_UDP, udp
	server := namesOf(probe.V4).first.Addr()
	var to unix.Sockaddr = &unix.SockaddrInet4{Addr: server.As4()}
	switch args[0] {
	case "ipv4-with-header", "ipv4-fragment":
		protocol = unix.IPPROTO_RAW
		header := []byte{0x46, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0} // with options
		if args[0] == "ipv4-fragment" {
			header[7] = 1
		}
		copy(header[16:], server.AsSlice())
		packet = append(header, udp...)
	case "ipv6", "ipv6-with-extension":
		domain = unix.AF_INET6
		to = &unix.SockaddrInet6{Addr: namesOf(probe.V6).first.Addr().As16()}
		if args[0] == "ipv6-with-extension" {
			protocol = unix.IPPROTO_DSTOPTS
			packet = append([]byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}, udp...)
		}
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW, protocol)
	if err == nil {
		err = unix.Sendto(fd, packet, 0, to)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
