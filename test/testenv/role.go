// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const (
	// roleEnv tells a child of a test which role of its binary it plays.
	roleEnv = "DNSTEER_TEST_ROLE"
	// runEnv is the run directory. Every descendant of a test inherits it, which
	// is how Main recognises a process that was left behind.
	runEnv = "DNSTEER_TEST_RUN"
)

// Roles are the programs that a test binary can be besides itself, by name. Each
// gets its arguments and returns its exit code.
type Roles map[string]func(args []string) int

// Dispatch plays the role that the environment names and exits; without one it
// returns. A program that uses Command calls it first thing in main, a test
// through Main.
func (r Roles) Dispatch() {
	name, ok := os.LookupEnv(roleEnv)
	if !ok {
		return
	}
	role, ok := r[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "%s: no role %q in this binary\n", os.Args[0], name)
		os.Exit(2)
	}
	// A role may start processes of its own, with their own roles or none.
	os.Unsetenv(roleEnv)
	os.Exit(role(os.Args[1:]))
}

// Command is this very binary in another role: not yet started, so that NetNS
// and Cgroup can place it. It can run as any user.
func Command(tb testing.TB, role string, args ...string) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command(Executable(tb), args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	return cmd
}

// Executable is a path of this binary that every user may execute; the go
// command keeps its own below a directory that only root may enter.
func Executable(tb testing.TB) string {
	tb.Helper()
	dir, ok := os.LookupEnv(runEnv)
	if !ok {
		tb.Fatal("find the run directory: the package needs func TestMain(m *testing.M) { testenv.Main(m, nil) }")
	}
	path := filepath.Join(dir, "self")
	self, err := os.Executable()
	if err != nil {
		tb.Fatalf("find own binary: %v", err)
	}
	err = os.Link(self, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return path
	}
	if err := copyFile(self, path); err != nil {
		tb.Fatalf("copy own binary: %v", err)
	}
	return path
}

// copyFile is for a run directory on another file system than the binary. The
// rename keeps a parallel test from executing half a file.
func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	part, err := os.CreateTemp(filepath.Dir(to), "self-*")
	if err != nil {
		return err
	}
	_, err = part.Write(content)
	if err := errors.Join(err, part.Chmod(0o755), part.Close()); err != nil {
		return err
	}
	return os.Rename(part.Name(), to)
}
