// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Use tells other processes that this one relies on the pinned datapath, until Close or
// its death: several may serve namespaces of their own with one datapath. It waits for
// one that is unloading, and then returns ErrNotLoaded.
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
	if !sameFile(dir, d.opts.stateDir(d.id)) {
		_ = dir.Close()
		return fmt.Errorf("use datapath of %s: %w", d.opts.Cgroup, ErrNotLoaded)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.use = dir
	return nil
}

// LastUser ends Use, and tells whether nobody else relies on the datapath. If so, nobody
// can begin to until Close: it may be unloaded.
func (d *Datapath) LastUser() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	// The kernel gives up the shared lock before it tries the other, so of two that end
	// at once at least one is told that it is the last.
	return d.use != nil && flock(d.use, unix.LOCK_EX|unix.LOCK_NB) == nil
}

// InUse tells whether a process relies on the datapath that is pinned for the cgroup.
func InUse(opts Options) (bool, error) {
	cgroup, id, err := openCgroup(opts.Cgroup)
	if err != nil {
		return false, err
	}
	_ = cgroup.Close()
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
