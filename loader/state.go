// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The state of one datapath is a directory of pins, <bpffs>/dnsteer/<cgroup id>. It is
// built in a sibling with the suffix asideSuffix and published by one rename; it is
// taken away by a rename to oldSuffix and removed from there. So the name without
// suffix is always whole, and what has a suffix belongs to nobody unless the lock is
// held. The filesystem allows no dots in names.
const (
	asideSuffix = "_new"
	oldSuffix   = "_old"
)

// root is the directory of all our pins on the BPF filesystem.
func (o Options) root() string { return filepath.Join(o.BPFFS, "dnsteer") }

func (o Options) stateDir(cgroup uint64) string {
	return filepath.Join(o.root(), strconv.FormatUint(cgroup, 10))
}

func (o Options) asideDir(cgroup uint64) string { return o.stateDir(cgroup) + asideSuffix }
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

// removeState takes a state away: out of sight in one step, then pin by pin. Links
// that are still attached go with their pins. What has a suffix is out of sight already.
func removeState(dir string) error {
	old := dir
	if !strings.HasSuffix(dir, asideSuffix) && !strings.HasSuffix(dir, oldSuffix) {
		old = dir + oldSuffix
		if err := os.RemoveAll(old); err != nil {
			return fmt.Errorf("remove state: %w", err)
		}
		if err := os.Rename(dir, old); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove state: %w", err)
		}
	}
	if err := os.RemoveAll(old); err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}

// stateName splits the name of a directory below root into the cgroup's id and the
// suffix; ok is false if we did not make it.
func stateName(name string) (id uint64, suffix string, ok bool) {
	for _, suffix := range []string{asideSuffix, oldSuffix, ""} {
		number, found := strings.CutSuffix(name, suffix)
		if !found {
			continue
		}
		id, err := strconv.ParseUint(number, 10, 64)
		return id, suffix, err == nil && strconv.FormatUint(id, 10) == number
	}
	return 0, "", false
}

// checkBPFFS tells whether the pins can be made. The error wraps ErrNotBPFFS.
func (o Options) checkBPFFS() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(o.BPFFS, &fs); err != nil {
		// %v: that the path is missing must not read as that the datapath is missing.
		return fmt.Errorf("open BPF filesystem %q: %w: %v", o.BPFFS, ErrNotBPFFS, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("open BPF filesystem %s: %w", o.BPFFS, ErrNotBPFFS)
	}
	return nil
}
