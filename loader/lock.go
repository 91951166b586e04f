// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lock takes the lock of all our state on the BPF filesystem, creating its directory,
// and returns what releases it. Writers hold it exclusively (unix.LOCK_EX), readers
// share it and get os.ErrNotExist if there is no state at all. It dies with its holder.
//
// unlock of an exclusive lock removes the directory if it is empty. Whoever waited
// for the lock of a removed directory starts anew.
func (o Options) lock(how int) (unlock func(), err error) {
	if err := o.checkBPFFS(); err != nil {
		return nil, err
	}
	for {
		dir, err := o.openRoot(how == unix.LOCK_EX)
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

// openRoot opens the directory of all state, made first if create is set: another
// process may remove it at any time before we hold the lock.
func (o Options) openRoot(create bool) (*os.File, error) {
	for {
		dir, err := os.Open(o.root())
		if !create || !errors.Is(err, os.ErrNotExist) {
			return dir, err
		}
		if err := os.Mkdir(o.root(), 0o750); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
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
