// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// emptyTimeout bounds the wait for killed processes to leave a cgroup. They die
// in milliseconds unless the machine is very busy.
const emptyTimeout = 10 * time.Second

// Cgroup is a scratch cgroup of the unified hierarchy.
type Cgroup struct {
	// Path is the directory below the mount of cgroup v2.
	Path string

	tb  testing.TB
	dir *os.File
}

// NewCgroup makes a scratch cgroup below the root of cgroup v2, wherever that is
// mounted. When the test ends, processes left in it or below it are killed and
// it is removed with all its children.
func NewCgroup(tb testing.TB) *Cgroup {
	tb.Helper()
	Privileged(tb)
	root, err := cgroup2Mount()
	if err != nil {
		tb.Fatal(err)
	}
	return makeCgroup(tb, root, cgroupPrefix()+"*")
}

// Child makes a cgroup below this one.
func (cg *Cgroup) Child(tb testing.TB) *Cgroup {
	tb.Helper()
	return makeCgroup(tb, cg.Path, "child-*")
}

// File is the cgroup's directory, to attach programs to; do not close it.
func (cg *Cgroup) File() *os.File { return cg.dir }

// Enter makes cmd start inside the cgroup (Linux 5.7): it is never anywhere else
// and nobody has to move it. Use it with NetNS.Start for a process that has both.
func (cg *Cgroup) Enter(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(cg.dir.Fd())
}

// Start starts cmd inside the cgroup. A process that the test has not waited for
// is killed when the test ends.
func (cg *Cgroup) Start(cmd *exec.Cmd) {
	cg.tb.Helper()
	cg.Enter(cmd)
	start(cg.tb, cmd)
}

// ownCgroup is the directory of the test's own cgroup.
func ownCgroup() (string, error) {
	root, err := cgroup2Mount()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(root, path), nil
		}
	}
	return "", errors.New("find own cgroup: it is in no cgroup v2")
}

// cgroupPrefix begins the names of this process's cgroups.
func cgroupPrefix() string { return fmt.Sprintf("dnsteer-test-%d-", os.Getpid()) }

func makeCgroup(tb testing.TB, parent, pattern string) *Cgroup {
	tb.Helper()
	path, err := os.MkdirTemp(parent, pattern)
	if err != nil {
		tb.Fatalf("make cgroup: %v", err)
	}
	tb.Cleanup(func() {
		if err := removeCgroup(path); err != nil {
			tb.Errorf("remove cgroup %s: %v", path, err)
		}
	})
	// As mkdir would have made it: processes of other owners look into it too.
	if err := os.Chmod(path, 0o755); err != nil {
		tb.Fatalf("open cgroup to others: %v", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		tb.Fatalf("open cgroup: %v", err)
	}
	tb.Cleanup(func() { dir.Close() })
	return &Cgroup{Path: path, tb: tb, dir: dir}
}

// removeCgroup kills what is left in the cgroup, waits until it is empty and
// removes it. A cgroup that is already gone is fine.
func removeCgroup(path string) error {
	dirs, err := cgroupTree(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := killCgroup(path, dirs); err != nil {
		return err
	}
	if err := awaitEmpty(path, emptyTimeout); err != nil {
		return err
	}
	for _, dir := range slices.Backward(dirs) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("rmdir %s: %w", dir, err)
		}
	}
	return nil
}

// cgroupTree lists the cgroup and all below it, parents first.
func cgroupTree(path string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	return dirs, err
}

// killCgroup kills every process in the tree, at once by cgroup.kill (Linux
// 5.14), else one by one.
func killCgroup(path string, dirs []string) error {
	pids, err := cgroupPIDs(dirs)
	if err != nil || len(pids) == 0 {
		return err
	}
	if slices.Contains(pids, os.Getpid()) {
		return fmt.Errorf("the test process itself is in it; start children with Enter instead of moving the test")
	}
	err = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return poll(emptyTimeout, func() error { return killOnce(dirs) })
}

// killOnce kills every process it sees, and fails while it sees any: one may
// have forked meanwhile.
func killOnce(dirs []string) error {
	pids, err := cgroupPIDs(dirs)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill %d: %w", pid, err)
		}
	}
	if len(pids) > 0 {
		return fmt.Errorf("%d processes are still in it", len(pids))
	}
	return nil
}

func cgroupPIDs(dirs []string) ([]int, error) {
	var pids []int
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("parse pid: %w", err)
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// awaitEmpty waits on cgroup.events, which the kernel marks readable (POLLPRI)
// when the tree becomes populated or empty.
func awaitEmpty(path string, timeout time.Duration) error {
	events, err := os.Open(filepath.Join(path, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer events.Close()
	deadline := time.Now().Add(timeout)
	buf := make([]byte, 256)
	for {
		n, err := unix.Pread(int(events.Fd()), buf, 0)
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read cgroup.events: %w", err)
		}
		if strings.Contains(string(buf[:n]), "populated 0") {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("wait %v: processes are still in it", timeout)
		}
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll cgroup.events: %w", err)
		}
	}
}
