// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
)

// Counters of leaks that outlive every process: a watch without events, whose link and
// counters are pinned beside the datapath's. The link is pinned last, so there is no
// link without counters.
func leakDir(dir string) string     { return filepath.Join(dir, "leaks") }
func leakLinkPin(dir string) string { return filepath.Join(leakDir(dir), "link") }

// leakPins are the pins of the counters, by the names of their maps.
func leakPins(dir string) map[string]string {
	return map[string]string{
		bpf.LeakMapSteerLeaks:  filepath.Join(leakDir(dir), "counts"),
		bpf.LeakMapSteerLeakNs: filepath.Join(leakDir(dir), "namespaces"),
	}
}

// CountLeaks counts the packets that leave enrolled namespaces unsteered, from now on until
// it is called with false or the datapath is unloaded. It costs something for every packet
// that leaves the cgroup. Called again it changes nothing. It is for pinned datapaths; see
// WatchLeaks for others, and for errors.
func (d *Datapath) CountLeaks(on bool) error {
	if !d.Pinned() {
		return fmt.Errorf("count leaks of %s: %w", d.opts.Cgroup, ErrNotLoaded)
	}
	unlock, err := d.opts.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	dir := d.opts.stateDir(d.id)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("count leaks of %s: %w", d.opts.Cgroup, ErrNotLoaded)
	}
	if on {
		err = d.startCounting(dir)
	} else {
		err = errors.Join(stopCounting(dir), setLease(d.maps[bpf.SteerMapSteerWatch], 0))
	}
	if err != nil {
		return fmt.Errorf("count leaks of %s: %w", d.opts.Cgroup, err)
	}
	return nil
}

func (d *Datapath) startCounting(dir string) error {
	if !isCounting(dir) {
		if err := os.RemoveAll(leakDir(dir)); err != nil { // of one that died half-way
			return err
		}
		if err := d.pinCounting(dir); err != nil {
			return errors.Join(err, os.RemoveAll(leakDir(dir)))
		}
	}
	return setLease(d.maps[bpf.SteerMapSteerWatch], watchForever)
}

// isCounting tells whether the counters have a link, and it is attached.
func isCounting(dir string) bool {
	l, err := link.LoadPinnedLink(leakLinkPin(dir), nil)
	if err != nil {
		return false
	}
	defer l.Close()
	_, attached, err := (&attachment{hook: leakHook(), link: l}).runs()
	return attached && err == nil
}

func (d *Datapath) pinCounting(dir string) error {
	if err := os.Mkdir(leakDir(dir), 0o750); err != nil {
		return err
	}
	objects, err := d.loadLeak(nil, false)
	if err != nil {
		return err
	}
	defer objects.Close()
	for name, pin := range leakPins(dir) {
		if err := objects.Maps[name].Pin(pin); err != nil {
			return fmt.Errorf("pin counters: %w", err)
		}
	}
	l, err := d.attachLeak(objects.Programs[bpf.LeakProgSteerLeak])
	if err != nil {
		return err
	}
	defer l.Close() // without a pin it goes with it
	if err := l.Pin(leakLinkPin(dir)); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	return nil
}

// stopCounting takes the program off and removes its pins. There may be none.
func stopCounting(dir string) error {
	return errors.Join(detachCounting(dir), os.RemoveAll(leakDir(dir)))
}

// detachCounting takes the program off.
func detachCounting(dir string) error {
	l, err := link.LoadPinnedLink(leakLinkPin(dir), nil)
	if err != nil {
		return nil //nolint:nilerr // there is none, or nothing that we made
	}
	defer l.Close()
	return (&attachment{hook: leakHook(), link: l}).detach()
}

// upgradeCounting puts this version's program in the place of the one that counts, if one
// does, and keeps its counters; what the version before did not count begins with zero. It
// tells whether it was another. The caller holds the lock.
func (d *Datapath) upgradeCounting(dir string) (changed bool, err error) {
	if !isCounting(dir) {
		return false, nil
	}
	counters := make(map[string]*ebpf.Map)
	for name, pin := range leakPins(dir) {
		m, err := ebpf.LoadPinnedMap(pin, nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("open leak counters: %w", err)
		}
		defer m.Close()
		counters[name] = m
	}
	objects, err := d.loadLeak(counters, false)
	if err != nil {
		return false, err
	}
	defer objects.Close()
	for name, pin := range leakPins(dir) {
		if counters[name] != nil {
			continue
		}
		if err := objects.Maps[name].Pin(pin); err != nil {
			return false, fmt.Errorf("pin counters: %w", err)
		}
	}
	l, err := link.LoadPinnedLink(leakLinkPin(dir), nil)
	if err != nil {
		return false, fmt.Errorf("open link of leak counters: %w", err)
	}
	defer l.Close()
	program := objects.Programs[bpf.LeakProgSteerLeak]
	if same, err := runsSame(l, program); same || err != nil {
		return false, err
	}
	if err := l.Update(program); err != nil {
		return false, fmt.Errorf("update leak counters: %w", err)
	}
	return true, nil
}

// runsSame tells whether a link's program has the same instructions as another.
func runsSame(l link.Link, program *ebpf.Program) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("inspect link: %w", err)
	}
	running, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return false, fmt.Errorf("inspect program: %w", err)
	}
	defer running.Close()
	old, err := running.Info()
	if err != nil {
		return false, fmt.Errorf("inspect program: %w", err)
	}
	fresh, err := program.Info()
	if err != nil {
		return false, fmt.Errorf("inspect program: %w", err)
	}
	return old.Tag == fresh.Tag, nil
}

// LeakCounts returns what CountLeaks has counted, in the order of the reasons, without
// zeros. It is nil if nobody counts.
func (d *Datapath) LeakCounts() ([]LeakCount, error) {
	if !d.Pinned() || !isCounting(d.opts.stateDir(d.id)) {
		return nil, nil
	}
	counts, err := d.openLeakCounters(bpf.LeakMapSteerLeaks)
	if err != nil {
		return nil, err
	}
	defer counts.Close()
	out, err := readLeakCounts(counts)
	if out == nil {
		out = []LeakCount{}
	}
	return out, err
}

func (d *Datapath) openLeakCounters(name string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(leakPins(d.opts.stateDir(d.id))[name], nil)
	if err != nil {
		return nil, fmt.Errorf("open leak counters: %w", err)
	}
	return m, nil
}

// LeaksByNamespace returns how many packets of each network namespace CountLeaks has
// counted, by the namespace's cookie: of the last thousand namespaces that leaked. It is nil
// if nobody counts.
func (d *Datapath) LeaksByNamespace() (map[uint64]uint64, error) {
	if !d.Pinned() || !isCounting(d.opts.stateDir(d.id)) {
		return nil, nil
	}
	m, err := d.openLeakCounters(bpf.LeakMapSteerLeakNs)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	out := make(map[uint64]uint64)
	var cookie, packets uint64
	all := m.Iterate()
	for all.Next(&cookie, &packets) {
		out[cookie] = packets
	}
	if err := all.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) { // it changes meanwhile
		return nil, fmt.Errorf("read leak counters: %w", err)
	}
	return out, nil
}
