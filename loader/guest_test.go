// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// hookNamed finds a hook.
func hookNamed(t *testing.T, name string) hook {
	t.Helper()
	for _, h := range hooks() {
		if h.name == name {
			return h
		}
	}
	t.Fatalf("no hook %s", name)
	return hook{}
}

// guest is a program of somebody else.
type guest struct {
	program *ebpf.Program
	calls   *ebpf.Map
	hook    hook
}

// newGuest makes a program that counts its calls and sends what goes to port 8053 to
// port 53 of nobody we steer: 8054.
func newGuest(t *testing.T, h hook) *guest {
	t.Helper()
	calls, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Name: "guest_calls"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { calls.Close() })
	const userPort = 24 // in struct bpf_sock_addr
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "guest", Type: ebpf.CGroupSockAddr, AttachType: h.attach, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMapPtr(asm.R1, calls.FD()),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.LoadMem(asm.R1, asm.R6, userPort, asm.Word),
			asm.JNE.Imm(asm.R1, int32(bigEndian(8053)), "out"),
			asm.Mov.Imm(asm.R1, int32(bigEndian(8054))),
			asm.StoreMem(asm.R6, userPort, asm.R1, asm.Word),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatalf("load guest: %+v", err)
	}
	t.Cleanup(func() { program.Close() })
	return &guest{program, calls, h}
}

func bigEndian(port uint16) uint16 { return port<<8 | port>>8 }

func (g *guest) count(t *testing.T) uint64 {
	t.Helper()
	var n uint64
	if err := g.calls.Lookup(uint32(0), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// attachLink attaches the guest by a link that lasts as long as the test.
func (g *guest) attachLink(t *testing.T, cgroup *testenv.Cgroup) {
	t.Helper()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup.Path, Attach: g.hook.attach, Program: g.program})
	if err != nil {
		t.Fatalf("attach guest: %v", err)
	}
	t.Cleanup(func() { l.Close() })
}

// attachLegacy attaches the guest by the legacy call.
func (g *guest) attachLegacy(t *testing.T, cgroup *testenv.Cgroup, flags uint32) {
	t.Helper()
	target := int(cgroup.File().Fd())
	err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: target, Program: g.program, Attach: g.hook.attach, Flags: flags})
	if err != nil {
		t.Fatalf("attach guest: %v", err)
	}
	t.Cleanup(func() {
		err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: target, Program: g.program, Attach: g.hook.attach})
		if err != nil {
			t.Errorf("the guest is not there any more: %v", err)
		}
	})
}

// guestsOf says what the other on each hook is, by position.
func TestGuestsKeepWorking(t *testing.T) {
	w := newWorld(t)
	testenv.Nameserver(t, w.server, netip.AddrPortFrom(primary, 8054), nil)
	for _, kind := range []string{"link", "legacy"} {
		for _, place := range []string{"before", "after", "above", "below"} {
			for _, ours := range []string{"our link", "our legacy call"} {
				t.Run(kind+"/"+place+"/"+ours, func(t *testing.T) {
					tryGuest(t, w, kind, place, seams{legacy: ours != "our link"})
				})
			}
		}
	}
}

func tryGuest(t *testing.T, w *world, kind, place string, s seams) {
	above := testenv.NewCgroup(t)
	middle := above.Child(t)
	below := middle.Child(t)
	opts := Options{Cgroup: middle.Path, BPFFS: w.opts.BPFFS}
	where := map[string]*testenv.Cgroup{"above": above, "below": below}[place]
	if where == nil {
		where = middle
	}
	app := where
	if place == "above" {
		app = middle
	}
	var guests []*guest
	add := func() {
		for _, name := range []string{"connect4", "sendmsg4"} {
			g := newGuest(t, hookNamed(t, name))
			if kind == "link" {
				g.attachLink(t, where)
			} else {
				g.attachLegacy(t, where, allowMulti)
			}
			guests = append(guests, g)
		}
	}
	if place != "after" {
		add()
	}
	d := mustLoad(t, opts, s)
	if place == "after" {
		add()
	}
	w.client.Do(func() {
		e := enrolHere(t, d)
		defer e.Close()
		tryQueries(t, w, app, guests, fromTable)
		s.alter = anotherVersion
		if _, err := upgradeWith(opts, (*attachment).update, s); err != nil {
			t.Errorf("upgrade: %v", err)
		}
		tryQueries(t, w, app, guests, fromTable)
	})
	if err := Unload(opts, 0); err != nil {
		t.Errorf("unload: %v", err)
	}
	tryQueries(t, w, app, guests, testenv.AnswerOf(primary))
}

// tryQueries asks as an application would: our answer comes, each guest is called, and
// what it rewrites is rewritten.
func tryQueries(t *testing.T, w *world, app *testenv.Cgroup, guests []*guest, want netip.Addr) {
	t.Helper()
	before := []uint64{guests[0].count(t), guests[1].count(t)}
	for _, s := range []shape{{Server: at(primary), Connected: true}, {Server: at(primary)}} {
		startQuerierIn(t, w.client, app, s).settle(t, 3).wantFrom(t, s, want)
	}
	for i, g := range guests {
		if g.count(t) == before[i] {
			t.Errorf("the guest on %s was not called", g.hook.name)
		}
	}
	elsewhere := shape{Server: netip.AddrPortFrom(primary, 8053), Connected: true}
	r := startQuerierIn(t, w.client, app, elsewhere).settle(t, 3)
	if r.Answers[testenv.AnswerOf(primary).String()] == 0 || len(r.Errors) > 0 {
		t.Errorf("what the guest rewrites: %+v", r)
	}
}

// limit: the kernel has room for 64 programs on a hook: Load fails on the last hook of all,
// when the others are attached and pinned.
func TestNoRoomOnHook(t *testing.T) {
	kinds(t, func(t *testing.T, legacy bool) {
		cgroup := testenv.NewCgroup(t)
		opts := Options{Cgroup: cgroup.Path, BPFFS: testenv.BPFFS(t)}
		all := hooks()
		last := all[len(all)-1]
		for range mostPrograms {
			plainGuest(t, last).attachLink(t, cgroup)
		}
		_, err := loadWith(opts, seams{legacy: legacy})
		wantErr(t, "load", err, unix.E2BIG)
		testenv.Eventually(t, waitMost, func() error {
			now := running(t, opts.Cgroup)
			if len(now) != 1 || len(now[last.name]) != mostPrograms {
				return errUnexpected("programs: %v", now)
			}
			return nil
		})
		if all, err := List(opts.BPFFS); err != nil || len(all) != 0 {
			t.Errorf("list: %+v, %v, want none", all, err)
		}
	})
}
