// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Acquire loads the datapath, or adopts the one that is loaded, with this version's programs;
// adopted tells which. It uses it, see Use: from here on nobody unloads it, but by force.
//
// It waits for another process that unloads it meanwhile, and begins anew. Returns what Load,
// Upgrade and Open do, ErrLayout above all, and ErrNotBPFFS without one: it is for pinned
// datapaths.
func Acquire(opts Options) (d *Datapath, adopted bool, err error) {
	return acquireWith(opts, seams{})
}

// acquireWith lets a test step in.
func acquireWith(opts Options, s seams) (d *Datapath, adopted bool, err error) {
	if err := opts.checkBPFFS(); err != nil {
		return nil, false, fmt.Errorf("use datapath of %s: %w", opts.Cgroup, err)
	}
	for {
		d, adopted, err = loadOrAdopt(opts, s)
		if err == nil {
			s.stage("adopted")
			if err = d.Use(); err == nil {
				return d, adopted, nil
			}
			d.Close()
		}
		// One that is detached is about to go, or its Unload died: Load takes its place.
		if !errors.Is(err, ErrNotLoaded) && !errors.Is(err, ErrDetached) {
			return nil, false, err
		}
	}
}

func loadOrAdopt(opts Options, s seams) (d *Datapath, adopted bool, err error) {
	d, err = Load(opts)
	if !errors.Is(err, ErrLoaded) {
		return d, false, err
	}
	s.stage("loaded already")
	if _, err := Upgrade(opts); err != nil {
		return nil, false, err
	}
	s.stage("upgraded")
	d, err = Open(opts)
	return d, true, err
}

// Use tells other processes that this one relies on the pinned datapath, until Close or
// its death: several may serve namespaces of their own with one datapath. It waits for
// one that is unloading, and then returns ErrNotLoaded, also if it was loaded again.
func (d *Datapath) Use() error {
	dir, err := os.Open(d.opts.stateDir(d.id))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("use datapath of %s: %w", d.opts.Cgroup, ErrNotLoaded)
	}
	if err != nil {
		return fmt.Errorf("use datapath of %s: %w", d.opts.Cgroup, err)
	}
	if err := flock(dir, unix.LOCK_SH); err != nil {
		_ = dir.Close()
		return fmt.Errorf("use datapath of %s: %w", d.opts.Cgroup, err)
	}
	if !d.isLoaded() || !sameFile(dir, d.opts.stateDir(d.id)) {
		_ = dir.Close()
		return fmt.Errorf("use datapath of %s: %w", d.opts.Cgroup, ErrNotLoaded)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.use = dir
	return nil
}

// isLoaded tells whether what is pinned for the cgroup is still this datapath, and not one
// that was loaded after somebody has unloaded ours.
func (d *Datapath) isLoaded() bool {
	now, err := os.Stat(d.opts.stateDir(d.id))
	return err == nil && d.state != nil && os.SameFile(d.state, now)
}

// LastUser ends Use, and tells whether nobody else relies on the datapath. If so, nobody
// can begin to until Close: it may be unloaded. It is false if somebody has unloaded it
// already, by force.
func (d *Datapath) LastUser() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	// The kernel gives up the shared lock before it tries the other, so of two that end
	// at once at least one is told that it is the last.
	return d.use != nil && flock(d.use, unix.LOCK_EX|unix.LOCK_NB) == nil && d.isLoaded()
}

// InUse tells whether a process relies on the datapath that is pinned for the cgroup.
func InUse(opts Options) (bool, error) {
	cgroup, id, err := openCgroup(opts.Cgroup)
	if err != nil {
		return false, err
	}
	_ = cgroup.Close()
	// Of two who look at once neither is to take the other for a user.
	unlock, err := opts.lock(unix.LOCK_EX)
	if errors.Is(err, ErrNotBPFFS) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look who uses the datapath of %s: %w", opts.Cgroup, err)
	}
	defer unlock()
	dir, err := os.Open(opts.stateDir(id))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look who uses the datapath of %s: %w", opts.Cgroup, err)
	}
	defer dir.Close()
	err = flock(dir, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}
