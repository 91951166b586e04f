// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Paths of one datapath's pins. They are built aside, in the sibling that asideDir
// names, and published by one rename. The filesystem allows no dots in names.
func (o Options) stateDir(cgroup uint64) string {
	return filepath.Join(o.root(), strconv.FormatUint(cgroup, 10))
}

func (o Options) asideDir(cgroup uint64) string { return o.stateDir(cgroup) + "_new" }
func linkPin(dir string, h hook) string         { return filepath.Join(dir, "links", h.name) }
func progPin(dir string, h hook) string         { return filepath.Join(dir, "progs", h.name) }
func mapPin(dir, name string) string            { return filepath.Join(dir, "maps", name) }

// makeState creates the directories that the pins go to.
func makeState(dir string) error {
	for _, d := range []string{dir, filepath.Join(dir, "links"), filepath.Join(dir, "progs"), filepath.Join(dir, "maps")} {
		if err := os.Mkdir(d, 0o750); err != nil {
			return fmt.Errorf("create state directory: %w", err)
		}
	}
	return nil
}

// checkBPFFS tells whether the pins can be made. The error wraps ErrNotBPFFS.
func (o Options) checkBPFFS() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(o.BPFFS, &fs); err != nil {
		return fmt.Errorf("open BPF filesystem %s: %w: %w", o.BPFFS, ErrNotBPFFS, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("open BPF filesystem %s: %w", o.BPFFS, ErrNotBPFFS)
	}
	return nil
}

// lock takes the lock of all our state on the BPF filesystem, creating its directory,
// and returns what releases it. Writers hold it exclusively (unix.LOCK_EX).
//
// unlock of an exclusive lock removes the directory if it is empty. Whoever waited
// for the lock of a removed directory starts anew.
func (o Options) lock(how int) (unlock func(), err error) {
	if err := o.checkBPFFS(); err != nil {
		return nil, err
	}
	for {
		if how == unix.LOCK_EX {
			if err := os.Mkdir(o.root(), 0o750); err != nil && !errors.Is(err, os.ErrExist) {
				return nil, fmt.Errorf("create state directory: %w", err)
			}
		}
		dir, err := os.Open(o.root())
		if errors.Is(err, os.ErrNotExist) && how == unix.LOCK_EX {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("lock state directory: %w", err)
		}
		if err := flock(dir, how); err != nil {
			_ = dir.Close()
			return nil, fmt.Errorf("lock state directory: %w", err)
		}
		if !sameFile(dir, o.root()) {
			_ = dir.Close()
			continue
		}
		return func() {
			if how == unix.LOCK_EX {
				_ = os.Remove(o.root()) // refuses unless empty
			}
			_ = dir.Close()
		}, nil
	}
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}
