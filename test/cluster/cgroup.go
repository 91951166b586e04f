// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is one mounted tree of cgroups.
type hierarchy struct {
	Dir     string // where the machine mounts it
	Options string // of v1: its controllers, or its name
	V2      bool
}

// hasMemory tells whether it is the v1 hierarchy of the memory controller.
func (h hierarchy) hasMemory() bool {
	return !h.V2 && slices.Contains(strings.Split(h.Options, ","), "memory")
}

// hierarchies lists those of this machine, as /proc/self/mountinfo has them.
func hierarchies() ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	var all []hierarchy
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(rest) < 3 || fields[3] != "/" || !strings.HasPrefix(rest[0], "cgroup") {
			continue
		}
		options := slices.DeleteFunc(strings.Split(rest[2], ","), func(o string) bool {
			return o == "rw" || o == "xattr" || strings.HasPrefix(o, "release_agent=")
		})
		all = append(all, hierarchy{Dir: fields[4], Options: strings.Join(options, ","), V2: rest[0] == "cgroup2"})
	}
	if !slices.ContainsFunc(all, func(h hierarchy) bool { return h.V2 }) {
		return nil, errors.New("find cgroups: cgroup v2 is mounted nowhere")
	}
	return all, nil
}

// makeCgroups makes a cgroup in every hierarchy and returns their directories.
func makeCgroups(all []hierarchy, name string) ([]string, error) {
	var dirs []string
	for _, h := range all {
		dir := filepath.Join(h.Dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return dirs, fmt.Errorf("make cgroup: %w", err)
		}
		dirs = append(dirs, dir)
		// A cpuset of v1 begins empty, and then takes no process.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inherit(h.Dir, dir, file); err != nil {
				return dirs, fmt.Errorf("fill cpuset: %w", err)
			}
		}
	}
	return dirs, nil
}

// inherit copies a file of a cgroup from its parent if it is empty. One that does
// not exist is fine.
func inherit(parent, dir, file string) error {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, fs.ErrNotExist) || len(bytes.TrimSpace(text)) > 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if text, err = os.ReadFile(filepath.Join(parent, file)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), text, 0)
}

// joinCgroups moves the calling process.
func joinCgroups(dirs []string) error {
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// emptyTimeout bounds how long the kernel may take to let go of dead processes.
const emptyTimeout = 10 * time.Second

// removeCgroups removes all cgroups whose name begins with prefix, and what is
// below them. Their processes are dead, or just dying.
func removeCgroups(prefix string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range all {
		dirs, err := filepath.Glob(filepath.Join(h.Dir, prefix+"*"))
		errs = append(errs, err)
		for _, dir := range dirs {
			errs = append(errs, removeTree(dir))
		}
	}
	return errors.Join(errs...)
}

func removeTree(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list cgroups: %w", err)
	}
	deadline := time.Now().Add(emptyTimeout)
	for _, dir := range slices.Backward(dirs) {
		for {
			err := unix.Rmdir(dir)
			if err == nil || errors.Is(err, unix.ENOENT) {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
			time.Sleep(10 * time.Millisecond) // a dying process announces nothing here
		}
	}
	return nil
}
