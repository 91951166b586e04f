// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// leaksOf are the programs that look for leaks.
func leaksOf(t *testing.T, cgroup string) []ebpf.ProgramID {
	t.Helper()
	ids, _, err := queryHook(cgroup, leakHook())
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// Counters outlive processes, upgrades and those who die, and go with the datapath.
func TestCountLeaks(t *testing.T) {
	w := newWorld(t)
	w.opts.Except = []netip.Prefix{netip.PrefixFrom(secondary, 32)}
	d := w.load(t)
	if counts, err := d.LeakCounts(); counts != nil || err != nil || len(leaksOf(t, w.opts.Cgroup)) != 0 {
		t.Errorf("counted without being asked: %v, %v", counts, err)
	}
	w.needWatch(t, d)
	w.keepBeating(t, w.resolve(t, d))
	count := func(on bool) {
		t.Helper()
		if err := d.CountLeaks(on); err != nil {
			t.Fatal(err)
		}
	}
	counted := func() uint64 {
		t.Helper()
		fresh, err := Open(w.opts) // as another process would
		if err != nil {
			t.Fatal(err)
		}
		defer fresh.Close()
		counts, err := fresh.LeakCounts()
		if err != nil || counts == nil {
			t.Fatalf("counts %v, %v", counts, err)
		}
		var sum uint64
		for _, c := range counts {
			if c.Reason != LeakExcluded || c.Family != "ipv4" || c.Proto != "udp" {
				t.Errorf("leaked: %+v", c)
			}
			sum += c.Packets
		}
		return sum
	}
	count(true)
	cookie := w.client.Cookie()
	here := func() uint64 {
		t.Helper()
		by, err := d.LeaksByNamespace()
		if err != nil || by == nil || len(by) > 1 {
			t.Fatalf("by namespace: %v, %v", by, err)
		}
		return by[cookie]
	}
	steered, excluded := shape{Server: at(primary)}, shape{Server: at(secondary)}
	w.startQuerier(t, steered).settle(t, 5).wantFrom(t, steered, fromTable)
	if n, in := counted(), here(); n != 0 || in != 0 {
		t.Errorf("%d packets leaked, %d here, want none", n, in)
	}
	c := w.startQuerier(t, excluded)
	c.settle(t, 5)
	before := counted()
	if before < 5 {
		t.Errorf("%d packets leaked, want those of 5 queries", before)
	}
	programs := leaksOf(t, w.opts.Cgroup)
	count(true)
	if diff := cmp.Diff(programs, leaksOf(t, w.opts.Cgroup)); diff != "" {
		t.Errorf("asked again: programs (-want +got):\n%s", diff)
	}
	if n := counted(); n < before {
		t.Errorf("asked again: %d packets, were %d", n, before)
	}
	if changed, err := Upgrade(w.opts); changed || err != nil {
		t.Errorf("upgrade to the same: %v, %v", changed, err)
	}
	if before, in, after := counted(), here(), counted(); in < before || in > after {
		t.Errorf("%d packets leaked here, of %d to %d", in, before, after)
	}
	// What a loader of another version left, which did not count by namespace: its link
	// goes on to this one's program.
	if err := errors.Join(d.otherLeakProgram(), os.Remove(leakPins(w.opts.stateDir(d.id))[bpf.LeakMapSteerLeakNs])); err != nil {
		t.Fatal(err)
	}
	if changed, err := Upgrade(w.opts); !changed || err != nil {
		t.Errorf("upgrade of the counters alone: %v, %v", changed, err)
	}
	c.settle(t, 5)
	if n, in := counted(), here(); n < before+5 || in < 5 || in >= n {
		t.Errorf("after an upgrade: %d packets, were %d; %d here", n, before, in)
	}
	count(false)
	count(false)
	if counts, err := d.LeakCounts(); counts != nil || err != nil || len(leaksOf(t, w.opts.Cgroup)) != 0 {
		t.Errorf("no more, but %v, %v", counts, err)
	}
	// One that died before it was attached.
	if err := os.Mkdir(leakDir(w.opts.stateDir(d.id)), 0o750); err != nil {
		t.Fatal(err)
	}
	count(true)
	if n := len(leaksOf(t, w.opts.Cgroup)); n != 1 {
		t.Errorf("%d programs, want 1", n)
	}
	if err := Unload(w.opts, 0); err != nil {
		t.Error(err)
	}
	wantErr(t, "count what is unloaded", d.CountLeaks(true), ErrNotLoaded)
	wantClean(t, w.opts)
}

// otherLeakProgram puts one that does nothing in the place of the one that counts.
func (d *Datapath) otherLeakProgram() error {
	l, err := link.LoadPinnedLink(leakLinkPin(d.opts.stateDir(d.id)), nil)
	if err != nil {
		return err
	}
	defer l.Close()
	pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer pass.Close()
	return l.Update(pass)
}

// A nameserver for which there is no number leaks, and says why.
func TestLeakWithoutRecord(t *testing.T) {
	w := newWorld(t)
	cookie := w.client.Cookie() // Linux 5.10 makes one when it is asked
	d := w.load(t)
	w.needWatch(t, d)
	w.keepBeating(t, w.resolve(t, d))
	numbers, holders := make([]uint32, 1<<16), make([]bpf.SteerAddress, 1<<16)
	for i := range numbers {
		numbers[i], holders[i] = uint32(i), toAddress(primary)
	}
	if n, err := d.maps[bpf.SteerMapSteerTag].BatchUpdate(numbers, holders, nil); err != nil {
		t.Fatalf("took %d numbers: %v", n, err)
	}
	watch, err := d.WatchLeaks()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	c := w.startQuerier(t, shape{Server: at(secondary)})
	got, err := watch.Next()
	if err != nil {
		t.Fatal(err)
	}
	want := Leak{
		Reason: LeakNoRecord, Family: "ipv4", Proto: "udp", Server: secondary,
		PID: uint32(c.cmd.Process.Pid), Command: "self", Cgroup: w.cgroup.Path,
	}
	ignored := cmpopts.IgnoreFields(Leak{}, "Port", "CgroupID", "Namespace", "Socket")
	if diff := cmp.Diff(want, got, ignored, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("leak (-want +got):\n%s", diff)
	}
	if got.Namespace != cookie || got.Port == 0 || got.CgroupID == 0 || got.Socket == 0 {
		t.Errorf("leak of namespace %d, want %d: %+v", got.Namespace, cookie, got)
	}
}

// More sockets than events find room: none is lost to the counters.
func TestLeaksTooMany(t *testing.T) {
	w := newWorld(t)
	w.opts.Except = []netip.Prefix{netip.PrefixFrom(primary, 32)}
	d := w.load(t)
	w.needWatch(t, d)
	w.keepBeating(t, w.resolve(t, d))
	watch, err := d.WatchLeaks()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	const sockets = 2000
	cmd := testenv.Command(t, "leak", "2000")
	cmd.Stderr = os.Stderr
	w.cgroup.Enter(cmd)
	w.client.Start(cmd)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	watch.Stop()
	told := uint64(0)
	for {
		_, err := watch.Next()
		if errors.Is(err, os.ErrClosed) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		told++
	}
	untold, err := watch.Untold()
	if err != nil {
		t.Fatal(err)
	}
	counts, err := watch.Counts()
	if err != nil || len(counts) != 1 || counts[0].Packets != sockets {
		t.Errorf("counted %v, %v, want %d packets", counts, err, sockets)
	}
	if told == 0 || untold == 0 || told+untold != sockets {
		t.Errorf("%d told and %d not, want %d", told, untold, sockets)
	}
}

// limit: the kernel has room for 64 watches, less what others have attached. One more is told
// so, and there is room again when one has ended.
func TestManyWatches(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	w.needWatch(t, d)
	objects, err := d.loadLeak(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer objects.Close()
	for range mostPrograms - 1 {
		l, err := d.attachLeak(objects.Programs[bpf.LeakProgSteerLeak])
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	last, err := d.WatchLeaks()
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.WatchLeaks()
	wantErr(t, "one watch more", err, unix.E2BIG)
	if err == nil || !strings.Contains(err.Error(), "there are 64 programs") {
		t.Errorf("one watch more: %v, want it to say why", err)
	}
	last.Close()
	testenv.Eventually(t, waitMost, func() error {
		watch, err := d.WatchLeaks()
		if err != nil {
			return errUnexpected("watch in the place of one that ended: %v", err)
		}
		watch.Close()
		return nil
	})
}

// A watch ends with its process, however that ends.
func TestWatcherKilled(t *testing.T) {
	w := newWorld(t)
	w.needWatch(t, w.load(t))
	cmd := testenv.Command(t, "watch", w.opts.Cgroup, w.opts.BPFFS)
	c := pipe(t, cmd)
	w.client.Start(cmd)
	var ready string
	if err := c.out.Decode(&ready); err != nil {
		t.Fatal(err)
	}
	if n := len(leaksOf(t, w.opts.Cgroup)); n != 1 {
		t.Errorf("%d programs while it watches, want 1", n)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	testenv.Eventually(t, waitMost, func() error {
		if n := len(leaksOf(t, w.opts.Cgroup)); n != 0 {
			return errUnexpected("%d programs after it was killed", n)
		}
		return nil
	})
	if err := Unload(w.opts, 0); err != nil {
		t.Error(err)
	}
	wantClean(t, w.opts)
}

// The lease that tells the hooks to say why is never shortened by who comes later.
func TestLease(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	w.needWatch(t, d)
	lease := d.maps[bpf.SteerMapSteerWatch]
	until := func() (ns uint64) {
		if err := lease.Lookup(uint32(0), &ns); err != nil {
			t.Fatal(err)
		}
		return ns
	}
	if until() != 0 {
		t.Error("somebody watches from the beginning")
	}
	watch, err := d.WatchLeaks()
	if err != nil {
		t.Fatal(err)
	}
	first := until()
	if left := first - monotonic(); left == 0 || left > uint64(watchLease) {
		t.Errorf("the lease is for %d ns", left)
	}
	testenv.Eventually(t, waitMost, func() error {
		if until() == first {
			return errUnexpected("it is not renewed")
		}
		return nil
	})
	if err := d.CountLeaks(true); err != nil {
		t.Fatal(err)
	}
	if err := extendLease(lease); err != nil {
		t.Fatal(err)
	}
	if until() != watchForever {
		t.Error("a watcher has cut short what is to be counted for ever")
	}
	watch.Close()
	if err := Unload(w.opts, 0); err != nil {
		t.Error(err)
	}
}

func TestParseLeak(t *testing.T) {
	for _, raw := range [][]byte{nil, make([]byte, 7), make([]byte, 1000), append(make([]byte, 44), make([]byte, 4)...)} {
		if l, ok := parseLeak(raw); ok {
			t.Errorf("%d bytes are %+v", len(raw), l)
		}
	}
}
