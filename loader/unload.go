// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Unload opens the datapath that is pinned for the cgroup and unloads it, see
// Datapath.Unload. What is damaged or of another layout is removed all the same; only
// what is pinned in our own directory is touched.
//
// Returns ErrNotLoaded if there is none.
func Unload(opts Options, linger time.Duration) error {
	cgroup, id, err := openCgroup(opts.Cgroup)
	if err != nil {
		return err
	}
	d := &Datapath{opts: opts, cgroup: cgroup, id: id}
	defer d.closeFiles()
	if err := d.open(); errors.Is(err, ErrNotLoaded) {
		return fmt.Errorf("unload from %s: %w", opts.Cgroup, err)
	}
	return d.Unload(linger)
}

// Unload ends the datapath without losing a query: it stops steering, returns
// connected sockets to their nameserver, keeps showing the nameserver as the sender of
// replies for as long as linger, and then detaches the rest and removes the pins. What
// others have attached stays. The Datapath must still be closed.
func (d *Datapath) Unload(linger time.Duration) error {
	if !d.Pinned() {
		return d.end(linger)
	}
	unlock, err := d.opts.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	dir := d.opts.stateDir(d.id)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("unload from %s: %w", d.opts.Cgroup, ErrNotLoaded)
	}
	// The directory goes whatever else does not: with its pins the kernel detaches.
	if err := errors.Join(d.end(linger), os.RemoveAll(dir)); err != nil {
		return fmt.Errorf("unload from %s: %w", d.opts.Cgroup, err)
	}
	return nil
}

func (d *Datapath) end(linger time.Duration) error {
	err := d.detach(func(a *attachment) bool { return a.hook.request })
	_, returnErr := d.Return()
	time.Sleep(linger)
	return errors.Join(err, returnErr, d.detach(everything))
}
