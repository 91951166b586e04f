// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Sweep removes what nobody can use any more from the BPF filesystem: the state of
// cgroups that do not exist any more, and what a loader left that died half-way. It
// returns the ids of the cgroups. Load does it too.
//
// A cgroup that was removed counts as existing for as long as one of its sockets lives:
// those are still steered. What it cannot find out about, it leaves.
func Sweep(bpffs string) ([]uint64, error) {
	opts := Options{BPFFS: bpffs}
	unlock, err := opts.lock(unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return opts.sweep()
}

// sweep is Sweep for who holds the lock.
func (o Options) sweep() ([]uint64, error) {
	entries, err := os.ReadDir(o.root())
	if err != nil {
		return nil, fmt.Errorf("look for state to remove: %w", err)
	}
	var swept []uint64
	var errs []error
	for _, entry := range entries {
		id, suffix, ours := stateName(entry.Name())
		if !ours {
			continue
		}
		dir := filepath.Join(o.root(), entry.Name())
		cgroup, err := openCgroupID(id)
		// With a suffix it belongs to who holds the lock, and that is us.
		if dead := errors.Is(err, ErrCgroupGone) && !anyLinkAlive(dir); dead || suffix != "" {
			if err := tearDown(dir, cgroup); err != nil {
				errs = append(errs, fmt.Errorf("remove state of cgroup %d: %w", id, err))
			} else if !slices.Contains(swept, id) {
				swept = append(swept, id)
			}
		}
		if cgroup != nil {
			_ = cgroup.Close()
		}
	}
	return swept, errors.Join(errs...)
}

// anyLinkAlive tells whether one of the links is still attached.
func anyLinkAlive(dir string) bool {
	for _, h := range hooks() {
		l, err := link.LoadPinnedLink(linkPin(dir, h), nil)
		if err != nil {
			continue
		}
		_, alive, err := (&attachment{hook: h, link: l}).runs()
		_ = l.Close()
		if alive || err != nil {
			return true
		}
	}
	return false
}
