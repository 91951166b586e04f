// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/probe"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// What DESIGN.md section 9 says of the kernel and the table cannot show.

// TestLookupSeesListeners: which sockets bpf_sk_lookup finds on the target. Strangers
// show it: the verdict is that somebody listens, or nobody.
func TestLookupSeesListeners(t *testing.T) {
	for _, tc := range []struct {
		name      string
		domain    int
		bind      unix.Sockaddr
		device    string
		connected bool
		want      loader.Verdict
	}{
		{"127.0.0.1", unix.AF_INET, &unix.SockaddrInet4{Port: 15053, Addr: [4]byte{127, 0, 0, 1}}, "", false, loader.Stranger},
		{"wildcard", unix.AF_INET, &unix.SockaddrInet4{Port: 15053}, "", false, loader.Stranger},
		{"dual-stack", unix.AF_INET6, &unix.SockaddrInet6{Port: 15053}, "", false, loader.Stranger},
		{"another address", unix.AF_INET, &unix.SockaddrInet4{Port: 15053, Addr: [4]byte{192, 0, 2, 1}}, "", false, loader.NoListener},
		{"bound to a device", unix.AF_INET, &unix.SockaddrInet4{Port: 15053}, "lo", false, loader.NoListener},
		{"connected", unix.AF_INET, &unix.SockaddrInet4{Port: 15053, Addr: [4]byte{127, 0, 0, 1}}, "", true, loader.NoListener},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, stateStranger, 0, loader.Options{})
			w.client.Do(func() {
				fd, err := unix.Socket(tc.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Close(fd) })
				if tc.domain == unix.AF_INET6 {
					err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
				}
				if tc.device != "" {
					err = errors.Join(err, unix.BindToDevice(fd, tc.device))
				}
				err = errors.Join(err, unix.Bind(fd, tc.bind))
				if tc.connected {
					err = errors.Join(err, unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}))
				}
				if err != nil {
					t.Fatal(err)
				}
			})
			w.askAndCheck(t, probe.V4, namesOf(probe.V4).first, false, tc.want)
		})
	}
}

// TestProgramsFollowTheSocket: programs come from the cgroup in which a socket was
// made, whoever uses it.
func TestProgramsFollowTheSocket(t *testing.T) {
	inside := counts{{loader.Owner, "ipv4", "udp"}: 1}
	if !kernelHas("kernel BTF") { // limit: the owner is the task's
		inside = counts{{loader.Steered, "ipv4", "udp"}: 1, {loader.Restored, "ipv4", "udp"}: 1}
	}
	for _, tc := range []struct {
		name        string
		makerInside bool
		want        counts
	}{
		{"made inside, used outside", true, inside},
		{"made outside, used inside", false, counts{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := worldIn(t, stateUp, 0)
			outside := testenv.NewCgroup(t)
			opts := probe.Options{NetNS: w.client, Cgroup: w.cgroup, MakerCgroup: outside}
			if tc.makerInside {
				opts.Cgroup, opts.MakerCgroup = outside, w.cgroup
			}
			child := probe.Start(t, opts)
			got := w.counted(t, func() {
				child.Run(t, probe.Spec{Family: probe.V4, Owner: probe.OwnerPassed, Steps: steps(to(probe.SendTo, namesOf(probe.V4).first), call(probe.RecvFrom))})
			})
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNestedDatapaths: a child cgroup's programs run before its parent's, for requests
// and replies alike, so the inner of two datapaths steers and the outer stays out.
func TestNestedDatapaths(t *testing.T) {
	outer := worldIn(t, stateUp, 0)
	inside := outer.cgroup.Child(t)
	d, err := loader.Load(loader.Options{Cgroup: inside.Path, Port: 15054})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	inner := &world{state: stateUp, client: outer.client, cgroup: inside, datapath: d}
	inner.resolver = startResolver(t, outer.client, d, outer.scope())
	inner.probe = probe.Start(t, probe.Options{NetNS: outer.client, Cgroup: inside})
	untouched := outer.counted(t, func() {
		for _, f := range []probe.Family{probe.V4, probe.Mapped, probe.V6} {
			inner.askAndCheck(t, f, namesOf(f).first, true, loader.Steered)
			inner.askAndCheck(t, f, namesOf(f).other, true, loader.Steered)
		}
	})
	if diff := cmp.Diff(counts{}, untouched); diff != "" {
		t.Errorf("counts of the outer datapath (-want +got):\n%s", diff)
	}
}

// TestNativeIPv6MayNotBecomeMapped: sendmsg6 refuses to turn native IPv6 into v4-mapped,
// so IPv4 tags cannot stand for IPv6 nameservers.
func TestNativeIPv6MayNotBecomeMapped(t *testing.T) {
	w := worldIn(t, stateAbsent, 0)
	const userIP6 = 8 // offset in struct bpf_sock_addr
	attachProgram(t, w.cgroup, ebpf.AttachCGroupUDP6Sendmsg, asm.Instructions{
		asm.Mov.Imm(asm.R2, 0),
		asm.StoreMem(asm.R1, userIP6, asm.R2, asm.Word),
		asm.StoreMem(asm.R1, userIP6+4, asm.R2, asm.Word),
		asm.Mov.Imm32(asm.R2, -65536), // ::ffff in network byte order
		asm.StoreMem(asm.R1, userIP6+8, asm.R2, asm.Word),
		asm.Mov.Imm(asm.R0, 1),
		asm.Return(),
	})
	got := w.probe.Run(t, probe.Spec{Family: probe.V6, Owner: probe.OwnerNone, Steps: steps(to(probe.SendTo, namesOf(probe.V6).first))})
	if got.Errno != "errno 524" {
		t.Errorf("errno %q, want 524 (ENOTSUPP)", got.Errno)
	}
}

// TestReturnValues: 0 from a request hook is EPERM, and from a reply hook refused at
// load: fail closed is for requests alone.
func TestReturnValues(t *testing.T) {
	zero := asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
	for _, hook := range []ebpf.AttachType{
		ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
	} {
		p, err := newProgram(hook, zero)
		if err == nil {
			p.Close()
			t.Errorf("%s: a program that returns 0 was loaded", hook)
		}
	}
	w := worldIn(t, stateAbsent, 0)
	n := namesOf(probe.V4)
	attachProgram(t, w.cgroup, ebpf.AttachCGroupUDP4Sendmsg, zero)
	attachProgram(t, w.cgroup, ebpf.AttachCGroupInet4Connect, zero)
	for _, c := range []probe.Call{probe.SendTo, probe.Connect} {
		got := w.probe.Run(t, probe.Spec{Family: probe.V4, Owner: probe.OwnerNone, Steps: steps(to(c, n.first))})
		if got.Errno != "EPERM" {
			t.Errorf("%s: errno %q, want EPERM", c, got.Errno)
		}
	}
}

func newProgram(hook ebpf.AttachType, code asm.Instructions) (*ebpf.Program, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: "test_hook", Type: ebpf.CGroupSockAddr, AttachType: hook, License: "GPL", Instructions: code})
}

func attachProgram(t *testing.T, cgroup *testenv.Cgroup, hook ebpf.AttachType, code asm.Instructions) {
	t.Helper()
	p, err := newProgram(hook, code)
	if err != nil {
		t.Fatalf("load for %s: %v", hook, err)
	}
	t.Cleanup(func() { p.Close() })
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup.Path, Attach: hook, Program: p})
	if err != nil {
		t.Fatalf("attach to %s: %v", hook, err)
	}
	t.Cleanup(func() { l.Close() })
}

// TestPrograms: names are whole in the kernel (it cuts them at 15 characters), and the
// programs small. go test -run TestPrograms -v shows the sizes of bpf/README.md.
func TestPrograms(t *testing.T) {
	// About twice the largest of today, so that a loop or a blow-up of the paths is seen.
	// The verifier itself walks up to a million.
	const mostInstructions, mostWalked = 2000, 20000
	w := newWorld(t, stateUp, 0, loader.Options{})
	for hook, name := range map[ebpf.AttachType]string{
		ebpf.AttachCGroupInet4Connect: "steer_connect4", ebpf.AttachCGroupInet6Connect: "steer_connect6",
		ebpf.AttachCGroupUDP4Sendmsg: "steer_sendmsg4", ebpf.AttachCGroupUDP6Sendmsg: "steer_sendmsg6",
		ebpf.AttachCGroupUDP4Recvmsg: "steer_recvmsg4", ebpf.AttachCGroupUDP6Recvmsg: "steer_recvmsg6",
		ebpf.AttachCgroupInet4GetPeername: "steer_getpeer4", ebpf.AttachCgroupInet6GetPeername: "steer_getpeer6",
	} {
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(w.cgroup.File().Fd()), Attach: hook})
		if err != nil || len(result.Programs) != 1 {
			t.Fatalf("query %s: %d programs, %v", hook, len(result.Programs), err)
		}
		p, err := ebpf.NewProgramFromID(result.Programs[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		size, _ := info.TranslatedSize()
		instructions := size / asm.InstructionSize
		walked, _ := info.VerifiedInstructions()
		t.Logf("%s: %d instructions after verification, %d walked by the verifier", info.Name, instructions, walked)
		if info.Name != name || instructions > mostInstructions || walked > mostWalked {
			t.Errorf("%s: %q, %d instructions, %d walked", hook, info.Name, instructions, walked)
		}
		p.Close()
	}
}

// TestOtherPortsAreUntouched: nothing but port 53 is looked at, nor counted.
func TestOtherPortsAreUntouched(t *testing.T) {
	w := worldIn(t, stateUp, 0)
	for _, f := range []probe.Family{probe.V4, probe.V6} {
		server := netip.AddrPortFrom(namesOf(f).first.Addr(), 5353)
		testenv.Nameserver(t, w.server, server, text("elsewhere"))
		got := w.counted(t, func() {
			result := w.probe.Run(t, probe.Spec{Family: f, Owner: probe.OwnerNone, Steps: steps(to(probe.SendTo, server), call(probe.RecvFrom))})
			want := []probe.Answer{{Text: "elsewhere", From: shownBy(f, server)}}
			if diff := cmp.Diff(want, result.Answers, same()...); diff != "" {
				t.Errorf("%s: %s, answers (-want +got):\n%s", f, result.Errno, diff)
			}
		})
		if len(got) != 0 {
			t.Errorf("%s: counts %v, want none", f, got)
		}
	}
}
