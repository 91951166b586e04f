// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Unload opens the datapath that is pinned for the cgroup and unloads it, see
// Datapath.Unload; linger is how long that has to settle. What is damaged, half unloaded
// or of another layout is removed all the same; only what is pinned in our own directory
// is touched.
//
// Returns ErrNotLoaded if there is none, and ErrCgroupGone if there is no such cgroup:
// what was left of cgroups that are gone is removed then.
func Unload(opts Options, linger time.Duration) error { return unloadWith(opts, linger, seams{}) }

// unloadWith lets a test die at any stage.
func unloadWith(opts Options, linger time.Duration, s seams) error {
	d, err := newDatapath(opts, s)
	if errors.Is(err, ErrCgroupGone) && opts.BPFFS != "" {
		_, sweepErr := Sweep(opts.BPFFS)
		return errors.Join(err, sweepErr)
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.open(); errors.Is(err, ErrNotLoaded) {
		return fmt.Errorf("unload from %s: %w", opts.Cgroup, err)
	}
	return d.Unload(func() { time.Sleep(linger) })
}

// Unload ends the datapath without losing a query: it stops steering, returns
// connected sockets to their nameserver, calls settle, and then detaches the rest and
// removes the pins. What others have attached stays. The Datapath must still be closed.
//
// Until settle returns the nameserver is shown as the sender of replies, and those that
// are late for a socket that was returned are passed on. It is to return when the resolver
// has answered what it has received, and applications have had the time to read that: the
// resolver must go on until it is called. While it runs, others may load and unload
// elsewhere. It may be nil if nobody waits for an answer.
func (d *Datapath) Unload(settle func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beginUnload(); err != nil {
		return fmt.Errorf("unload from %s: %w", d.opts.Cgroup, err)
	}
	d.seams.stage("steering ended")
	_, returnErr := d.Return()
	d.seams.stage("sockets returned")
	if settle != nil {
		settle()
	}
	if err := errors.Join(returnErr, d.endUnload()); err != nil {
		return fmt.Errorf("unload from %s: %w", d.opts.Cgroup, err)
	}
	return nil
}

// beginUnload stops steering.
func (d *Datapath) beginUnload() error {
	if !d.Pinned() {
		return d.detach(requests)
	}
	unlock, err := d.opts.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if !d.isLoaded() {
		return ErrNotLoaded
	}
	return d.detach(requests)
}

// endUnload detaches the rest and removes the pins, unless somebody else has: Unload of
// one cgroup may run twice at a time.
func (d *Datapath) endUnload() error {
	if !d.Pinned() {
		return d.detach(everything)
	}
	unlock, err := d.opts.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if !d.isLoaded() {
		return nil // removed, and perhaps loaded again
	}
	_, err = d.opts.sweep()
	return errors.Join(err, tearDown(d.opts.stateDir(d.id), d.cgroup))
}

// tearDown detaches what is pinned in a state directory, whole or damaged, and removes
// it. Only what is pinned there is detached. cgroup is nil if it is gone, and with it
// what the legacy call attached. The caller holds the lock.
func tearDown(dir string, cgroup *os.File) error {
	errs := []error{detachCounting(dir)}
	for _, h := range hooks() {
		l, err := link.LoadPinnedLink(linkPin(dir, h), nil)
		if err == nil {
			a := &attachment{hook: h, link: l}
			errs = append(errs, a.detach())
			_ = l.Close()
			continue
		}
		if cgroup == nil {
			continue
		}
		for _, path := range []string{progPin(dir, h), progPin(dir, h) + nextSuffix} {
			program, err := ebpf.LoadPinnedProgram(path, nil)
			if err != nil {
				continue
			}
			a := &attachment{hook: h, cgroup: cgroup, program: program}
			errs = append(errs, a.detach())
			_ = program.Close()
		}
	}
	// The directory goes whatever else does not: with its pins the kernel detaches.
	return errors.Join(append(errs, removeState(dir))...)
}
