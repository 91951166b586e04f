// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// runPrefix begins the names of run directories.
const runPrefix = "dnsteer-"

// settleTimeout is how long what a test has closed may take to be gone.
const settleTimeout = 2 * time.Second

// Main is the TestMain of a package that uses testenv. In a child that Command
// started it plays the child's role. Otherwise it runs the tests in a run
// directory of their own and fails if they passed but left something behind: a
// mount, cgroup, pin, process, goroutine or descriptor. It does not return.
func Main(m *testing.M, roles Roles) {
	roles.Dispatch()
	os.Exit(guard(os.Stderr, m.Run))
}

// guard calls run with a run directory and returns its exit code, or 1 if it
// succeeded and leaked.
func guard(out io.Writer, run func() int) int {
	dir, restore, err := openRunDir()
	if err != nil {
		fmt.Fprintf(out, "make run directory: %v\n", err)
		return 1
	}
	defer restore()
	before, err := takeInventory(dir)
	if err != nil {
		fmt.Fprintf(out, "look for leaks: %v\n", err)
		return 1
	}
	code := run()
	if code == 0 {
		if err := poll(settleTimeout, before.leaks); err != nil {
			fmt.Fprintf(out, "leak: %v\n", err)
			code = 1
		}
	}
	if err := closeRunDir(dir); err != nil {
		fmt.Fprintf(out, "remove run directory: %v\n", err)
		return 1
	}
	return code
}

// openRunDir makes the directory in which all temporary files of the run live,
// and points the environment to it until restore is called. Its name is short
// because those of unix sockets are limited to 107 bytes.
func openRunDir() (dir string, restore func(), err error) {
	dir, err = os.MkdirTemp("", runPrefix)
	if err != nil {
		return "", nil, err
	}
	undoTemp, undoRun := setenv("TMPDIR", dir), setenv(runEnv, dir)
	return dir, func() { undoTemp(); undoRun() }, os.Chmod(dir, 0o755)
}

// setenv sets a variable until undo is called. Setenv fails for names and values
// that no file name can make.
func setenv(key, value string) (undo func()) {
	old, had := os.LookupEnv(key)
	_ = os.Setenv(key, value)
	if !had {
		return func() { _ = os.Unsetenv(key) }
	}
	return func() { _ = os.Setenv(key, old) }
}

// closeRunDir removes the run directory. It unmounts first what a failed test
// left mounted there, so that nothing on the other side is removed.
func closeRunDir(dir string) error {
	all, err := mounts()
	if err != nil {
		return err
	}
	for _, m := range all {
		if !below(m.point, dir) {
			continue
		}
		if err := unix.Unmount(m.point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", m.point, err)
		}
	}
	return os.RemoveAll(dir)
}
