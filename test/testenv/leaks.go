// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.uber.org/goleak"
)

// inventory is what there was before the tests ran. Mounts, pins and descriptors
// are compared with it; cgroups and processes carry the run's mark, so that
// packages tested at the same time do not blame each other.
type inventory struct {
	runDir string
	mounts map[string]bool
	pins   map[string]bool
	fds    map[int]string

	goroutines goleak.Option // those to ignore
}

func takeInventory(runDir string) (*inventory, error) {
	mounted, errMounts := watchedMounts()
	pins, errPins := pinned()
	fds, errFDs := descriptors()
	return &inventory{runDir, mounted, pins, fds, goleak.IgnoreCurrent()}, errors.Join(errMounts, errPins, errFDs)
}

// leaks returns an error that lists everything that the run left behind.
func (before *inventory) leaks() error {
	return errors.Join(
		before.leakedMounts(),
		leakedCgroups(),
		before.leakedPins(),
		before.leakedProcesses(),
		goleak.Find(before.goroutines),
		before.leakedDescriptors(),
	)
}

func (before *inventory) leakedMounts() error {
	mounted, err := watchedMounts()
	if err != nil {
		return err
	}
	all, err := mounts()
	if err != nil {
		return err
	}
	var errs []error
	for point := range mounted {
		if !before.mounts[point] {
			errs = append(errs, fmt.Errorf("namespace %s is still mounted", point))
		}
	}
	for _, m := range all {
		if below(m.point, before.runDir) {
			errs = append(errs, fmt.Errorf("%s at %s is still mounted", m.fsType, m.point))
		}
	}
	return errors.Join(errs...)
}

func leakedCgroups() error {
	root, err := cgroup2Mount()
	if err != nil {
		return nil // no test can have made one
	}
	dirs, err := filepath.Glob(filepath.Join(root, cgroupPrefix()+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, fmt.Errorf("cgroup %s still exists", dir))
	}
	return errors.Join(errs...)
}

func (before *inventory) leakedPins() error {
	pins, err := pinned()
	if err != nil {
		return err
	}
	var errs []error
	for pin := range pins {
		if !before.pins[pin] {
			errs = append(errs, fmt.Errorf("%s is still pinned", pin))
		}
	}
	return errors.Join(errs...)
}

// leakedProcesses finds children that nobody waited for and descendants, however
// distant, that inherited the run's mark.
func (before *inventory) leakedProcesses() error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	mark := []byte(runEnv + "=" + before.runDir + "\x00")
	var errs []error
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process that ends meanwhile is no leak, so errors mean nothing here.
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		name, parent := stat(dir)
		if parent == os.Getpid() || bytes.Contains(environ, mark) {
			errs = append(errs, fmt.Errorf("process %d (%s), child of %d, was not waited for", pid, name, parent))
		}
	}
	return errors.Join(errs...)
}

func (before *inventory) leakedDescriptors() error {
	fds, err := descriptors()
	if err != nil {
		return err
	}
	var errs []error
	for fd, target := range fds {
		if before.fds[fd] != target {
			errs = append(errs, fmt.Errorf("descriptor %d (%s) is still open", fd, target))
		}
	}
	return errors.Join(errs...)
}

// netnsDir is where "ip netns" and its like give namespaces names; whatever else
// the machine runs (containers) keeps its own elsewhere.
const netnsDir = "/run/netns"

// watchedMounts lists the namespaces that have a name.
func watchedMounts() (map[string]bool, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	points := map[string]bool{}
	for _, m := range all {
		if m.fsType == "nsfs" && below(m.point, netnsDir) {
			points[m.point] = true
		}
	}
	return points, nil
}

// pinned lists dnsteer's state directories on all BPF file systems but those of test
// runs: another run's are its own affair, and one left in ours is a leaked mount.
func pinned() (map[string]bool, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	pins := map[string]bool{}
	for _, m := range all {
		// A run within a run has its directory in the other's.
		if m.fsType != "bpf" || strings.Contains(m.point, "/"+runPrefix) {
			continue
		}
		dirs, err := filepath.Glob(filepath.Join(m.point, "dnsteer*", "*"))
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			pins[dir] = true
		}
	}
	return pins, nil
}

// descriptors lists what is open, except the runtime's own poller, which comes
// into being with the first file.
func descriptors() (map[int]string, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	fds := map[int]string{}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the directory that was just read
		}
		if err != nil {
			return nil, err
		}
		if target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" {
			continue
		}
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return nil, err
		}
		fds[fd] = target
	}
	return fds, nil
}

// stat reads a process's name and parent from /proc/PID/stat, where the name is
// in parentheses and may itself contain some.
func stat(dir string) (name string, parent int) {
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return "", 0
	}
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return "", 0
	}
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(fields[1])
	return string(text[open+1 : end]), parent
}

// below tells whether path is dir or lies in it.
func below(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}
