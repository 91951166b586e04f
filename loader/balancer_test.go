// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// newBalancer makes the program of a load balancer for one hook, as it is in place of
// kube-proxy: who addresses the virtual address from, port 53, is sent to the address to,
// and hears from the virtual one.
func newBalancer(t *testing.T, h hook, from, to netip.Addr) *guest {
	t.Helper()
	if !h.request {
		from, to = to, from
	}
	const userIP4, userPort = 4, 24 // in struct bpf_sock_addr
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "balancer", Type: ebpf.CGroupSockAddr, AttachType: h.attach, License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, userPort, asm.Word),
			asm.JNE.Imm(asm.R2, int32(bigEndian(53)), "out"),
			asm.LoadMem(asm.R2, asm.R1, userIP4, asm.Word),
			asm.JNE.Imm32(asm.R2, inContext(from), "out"),
			asm.Mov.Imm32(asm.R2, inContext(to)),
			asm.StoreMem(asm.R1, userIP4, asm.R2, asm.Word),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatalf("load balancer: %+v", err)
	}
	t.Cleanup(func() { program.Close() })
	return &guest{program: program, hook: h}
}

// inContext is an address as the context of a hook has it, for a 32 bit comparison.
func inContext(a netip.Addr) int32 {
	return int32(binary.NativeEndian.Uint32(a.AsSlice()))
}

// A load balancer on the same hooks gives the nameserver another address. Wherever it is
// attached and whenever, the application hears from the address that it asked, from us and,
// without us, from the nameserver behind it.
//
// limit: before Linux 6.17 nobody can go in front of who is there already. Then CheckOrder
// says so.
func TestLoadBalancer(t *testing.T) {
	w := newWorld(t)
	for _, place := range []string{"before", "after", "above"} {
		t.Run(place, func(t *testing.T) { tryBalancer(t, w, place) })
	}
}

func tryBalancer(t *testing.T, w *world, place string) {
	virtual := netip.MustParseAddr("192.0.2.253") // nobody's
	above := testenv.NewCgroup(t)
	cgroup := above.Child(t)
	opts := Options{Cgroup: cgroup.Path, BPFFS: w.opts.BPFFS}
	where := cgroup
	if place == "above" {
		where = above
	}
	add := func() {
		for _, name := range []string{"connect4", "sendmsg4", "recvmsg4", "getpeername4"} {
			newBalancer(t, hookNamed(t, name), virtual, secondary).attachLink(t, where)
		}
	}
	if place != "after" {
		add()
	}
	connected, unconnected := shape{Server: at(virtual), Connected: true}, shape{Server: at(virtual)}
	settle := func(want netip.Addr) *child {
		startQuerierIn(t, w.client, cgroup, unconnected).settle(t, 3).wantFrom(t, unconnected, want)
		c := startQuerierIn(t, w.client, cgroup, connected)
		c.settle(t, 3).wantFrom(t, connected, want)
		return c
	}
	hopeless := place == "before" && !canGoFirst()
	wantOrder(t, opts, hopeless)
	d := mustLoad(t, opts, seams{})
	if place == "after" {
		add()
	}
	wantOrder(t, opts, hopeless)
	old := settle(testenv.AnswerOf(secondary))
	if hopeless {
		return
	}
	w.client.Do(func() {
		e := enrolHere(t, d)
		defer e.Close()
		late := settle(fromTable)
		if moved, err := d.Resteer(); moved != 1 || err != nil {
			t.Errorf("moved %d sockets, %v, want 1", moved, err)
		}
		old.settle(t, 3).wantFrom(t, connected, fromTable)
		if err := d.Unload(answersRead); err != nil {
			t.Errorf("unload: %v", err)
		}
		for _, c := range []*child{old, late} {
			c.settle(t, 3).wantFrom(t, connected, testenv.AnswerOf(secondary))
		}
	})
	settle(testenv.AnswerOf(secondary))
}

// wantOrder fails the test unless CheckOrder tells of a balancer in front of us.
func wantOrder(t *testing.T, opts Options, balancer bool) {
	t.Helper()
	f := CheckOrder(opts)
	if told := f.Severity == Warning && strings.Contains(f.Have, "balancer"); told != balancer || !told && f.Severity != OK {
		t.Errorf("order: %s %s, balancer in front is %v", f.Severity, f, balancer)
	}
}
