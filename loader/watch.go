// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/dnsteer/dnsteer/bpf"
)

// The watch for leaks is a program on every packet that leaves the cgroup, and so is
// attached only while somebody watches. Each watcher has a program and counters of its
// own; the hooks tell all of them, through the sockets, why they left a call alone. They
// do so for as long as steer_watch says, which a watcher renews: one that is killed
// leaves nothing that costs.
const (
	watchLease   = 5 * time.Second
	watchRenewal = time.Second
)

// watchForever is the lease of counters that are pinned.
const watchForever = ^uint64(0)

// LeakWatch sees every packet to port 53 that leaves an enrolled namespace unsteered, from
// when it was made until it is closed. Close it.
type LeakWatch struct {
	link   link.Link
	counts *ebpf.Map
	events *ringbuf.Reader
	lease  *ebpf.Map

	ended   chan struct{}
	renewal sync.WaitGroup
}

// WatchLeaks begins to watch the sockets of the datapath's cgroup and of those below it.
//
// Returns ErrNoBTF if the kernel has none, for then nobody can tell whose a socket is, and
// ErrExclusive if somebody has the egress hook of the cgroup to himself.
func (d *Datapath) WatchLeaks() (*LeakWatch, error) {
	w, err := d.watchLeaks()
	if err != nil {
		return nil, fmt.Errorf("watch %s for leaks: %w", d.opts.Cgroup, err)
	}
	return w, nil
}

func (d *Datapath) watchLeaks() (*LeakWatch, error) {
	objects, err := d.loadLeak(nil, true)
	if err != nil {
		return nil, err
	}
	defer objects.Close()
	w := &LeakWatch{ended: make(chan struct{})}
	if w.lease, err = d.maps[bpf.SteerMapSteerWatch].Clone(); err != nil {
		return nil, err
	}
	if w.events, err = ringbuf.NewReader(objects.Maps[bpf.LeakMapSteerEvent]); err != nil {
		w.close()
		return nil, fmt.Errorf("read events: %w", err)
	}
	w.counts = objects.DetachMap(bpf.LeakMapSteerLeaks)
	if err := extendLease(w.lease); err != nil {
		w.close()
		return nil, err
	}
	if w.link, err = d.attachLeak(objects.Programs[bpf.LeakProgSteerLeak]); err != nil {
		w.close()
		return nil, err
	}
	w.renewal.Go(w.renew)
	return w, nil
}

// leakHook is where packets leave the sockets of a cgroup.
func leakHook() hook {
	return hook{name: "egress", attach: ebpf.AttachCGroupInetEgress, since: "4.10", program: bpf.LeakProgSteerLeak}
}

// attachLeak puts the watch on the cgroup by a link: it has to end with who watches.
func (d *Datapath) attachLeak(program *ebpf.Program) (link.Link, error) {
	a, err := attach(d.cgroup, leakHook(), program, false)
	if err != nil {
		return nil, err
	}
	if a.link == nil {
		return nil, errors.Join(fmt.Errorf("attach egress to %s by a link: %w: use Linux 5.7 or newer", d.cgroup.Name(), link.ErrNotSupported), a.detach())
	}
	return a.link, nil
}

// loadLeak loads the watch onto the datapath's maps, and onto counters that are there
// already, by the names of their maps.
func (d *Datapath) loadLeak(counters map[string]*ebpf.Map, tells bool) (*ebpf.Collection, error) {
	spec, err := bpf.LoadLeak()
	if err != nil {
		return nil, fmt.Errorf("read embedded programs: %w", err)
	}
	layout, layoutErr := kernelLayout()
	more, moreErr := leakLayout()
	if err := errors.Join(layoutErr, moreErr); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBTF, err)
	}
	told := uint32(0)
	if tells {
		told = 1
	} else {
		spec.Maps[bpf.LeakMapSteerEvent].MaxEntries = uint32(os.Getpagesize()) // nobody reads it
	}
	err = errors.Join(
		spec.Variables[bpf.LeakVarSteerLayout].Set(layout),
		spec.Variables[bpf.LeakVarSteerLeakLay].Set(more),
		spec.Variables[bpf.LeakVarSteerPort].Set(d.opts.port()),
		spec.Variables[bpf.LeakVarSteerTells].Set(told),
	)
	if err != nil {
		return nil, fmt.Errorf("set load-time settings: %w", err)
	}
	shared := make(map[string]*ebpf.Map)
	for name, m := range d.maps {
		shared[name] = m
	}
	maps.Copy(shared, counters)
	objects, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return nil, fmt.Errorf("load program: %w", err)
	}
	return objects, nil
}

// leakLayout is kernelLayout for what only the watch reads.
func leakLayout() (bpf.LeakLeakLayout, error) {
	var l bpf.LeakLeakLayout
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return l, fmt.Errorf("read kernel BTF: %w", err)
	}
	for _, want := range []struct {
		structure, member string
		offset            *uint32
	}{
		{"sock_common", "skc_net", &l.SockNet}, // first in struct sock
		{"net", "net_cookie", &l.NetCookie},
		{"task_struct", "tgid", &l.TaskTgid},
		{"task_struct", "comm", &l.TaskComm},
	} {
		if *want.offset, err = memberOffset(kernel, want.structure, want.member); err != nil {
			return bpf.LeakLeakLayout{}, err
		}
	}
	return l, nil
}

// renew keeps the hooks telling why they leave a call alone.
func (w *LeakWatch) renew() {
	tick := time.NewTicker(watchRenewal)
	defer tick.Stop()
	for {
		select {
		case <-w.ended:
			return
		case <-tick.C:
			_ = extendLease(w.lease) // reasons get vaguer without, counts stay exact
		}
	}
}

// extendLease leaves one alone that holds for longer.
func extendLease(m *ebpf.Map) error {
	var until uint64
	if err := m.Lookup(uint32(0), &until); err != nil {
		return fmt.Errorf("read lease: %w", err)
	}
	if next := monotonic() + uint64(watchLease); next > until {
		return setLease(m, next)
	}
	return nil
}

func setLease(m *ebpf.Map, until uint64) error {
	if err := m.Put(uint32(0), until); err != nil {
		return fmt.Errorf("tell the hooks that somebody watches: %w", err)
	}
	return nil
}

// Next returns the next leak: the first packet of a socket for one reason. It waits for
// one, and returns os.ErrClosed after Close, and after Stop when there is no more to tell.
func (w *LeakWatch) Next() (Leak, error) {
	record, err := w.events.Read()
	if errors.Is(err, ringbuf.ErrFlushed) {
		err = os.ErrClosed
	}
	if err != nil {
		return Leak{}, fmt.Errorf("read leaks: %w", err)
	}
	l, ok := parseLeak(record.RawSample)
	if !ok {
		return l, fmt.Errorf("read leaks: an event of %d bytes makes no sense", len(record.RawSample))
	}
	if dir, err := openCgroupID(l.CgroupID); err == nil {
		l.Cgroup = dir.Name()
		_ = dir.Close()
	}
	if l.PID == 0 && l.Cgroup != "" {
		l.PID, l.Command = holder(l)
	}
	return l, nil
}

// Counts returns how many packets have leaked, exactly, whatever Next could tell of them.
func (w *LeakWatch) Counts() ([]LeakCount, error) { return readLeakCounts(w.counts) }

// Untold returns how many leaks Next has missed because they came faster than they were
// read.
func (w *LeakWatch) Untold() (uint64, error) {
	sum, err := sumCalls(w.counts, uint32(leakUntold))
	if err != nil {
		return 0, fmt.Errorf("read leak counters: %w", err)
	}
	var n uint64
	for _, family := range sum.Count {
		n += family[0] + family[1]
	}
	return n, nil
}

// Stop ends the watch; counters stay readable until Close. Call it once.
func (w *LeakWatch) Stop() {
	_ = w.link.Detach()
	_ = w.events.Flush()
}

// Close ends the watch. Nothing of it stays.
func (w *LeakWatch) Close() {
	close(w.ended)
	w.renewal.Wait()
	w.close()
}

func (w *LeakWatch) close() {
	if w.link != nil {
		_ = w.link.Detach() // off when it returns, not some time later
		_ = w.link.Close()
	}
	if w.events != nil {
		_ = w.events.Close()
	}
	if w.counts != nil {
		_ = w.counts.Close()
	}
	_ = w.lease.Close()
}
