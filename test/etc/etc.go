// SPDX-License-Identifier: Apache-2.0

// Package etc starts programs that find a resolv.conf of the test's own in /etc,
// and with it an nsswitch.conf and a hosts file that make nothing but DNS answer,
// whatever the machine has there (systemd-resolved's module would leave the
// namespace by a unix socket). The files are mounted over those of the machine in a
// mount namespace that nobody else sees.
package etc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// role mounts the files and becomes another program.
const role = "etc"

// Roles are the processes of this package; a binary that calls Command has them
// among its own.
func Roles() testenv.Roles { return testenv.Roles{role: main} }

// Command is argv, not yet started, run where /etc has this resolv.conf.
func Command(tb testing.TB, resolvConf string, argv ...string) *exec.Cmd {
	tb.Helper()
	return CommandOver(tb, Write(tb, resolvConf), argv...)
}

// CommandOver is Command with the files of a directory of Write, which may change later
// if they stay the same files.
func CommandOver(tb testing.TB, dir string, argv ...string) *exec.Cmd {
	tb.Helper()
	return Private(testenv.Command(tb, role, append([]string{dir}, argv...)...))
}

// Private gives cmd a mount namespace that nobody else sees, which is what Mount
// needs.
func Private(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return cmd
}

// Write writes the files to a directory for Mount.
func Write(tb testing.TB, resolvConf string) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, text := range files(resolvConf) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			tb.Fatalf("write %s: %v", name, err)
		}
	}
	return dir
}

func files(resolvConf string) map[string]string {
	return map[string]string{
		"resolv.conf":   resolvConf,
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
		"hosts":         "127.0.0.1 localhost\n::1 localhost\n",
	}
}

// Mount puts the files of dir over those of /etc. nsswitch.conf may be missing
// there, the default of the C library is then the same as ours.
func Mount(dir string) error {
	for name := range files("") {
		target := filepath.Join("/etc", name)
		err := unix.Mount(filepath.Join(dir, name), target, "", unix.MS_BIND, "")
		if errors.Is(err, unix.ENOENT) && name == "nsswitch.conf" {
			continue
		}
		if err != nil {
			return fmt.Errorf("mount over %s: %w", target, err)
		}
	}
	return nil
}

// main is the role: a directory for Mount, then the program and its arguments.
func main(args []string) int {
	if err := Mount(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	path, err := exec.LookPath(args[1])
	if err == nil {
		err = syscall.Exec(path, args[1:], os.Environ())
	}
	fmt.Fprintf(os.Stderr, "execute %s: %v\n", args[1], err)
	return 125
}
