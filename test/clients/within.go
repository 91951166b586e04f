// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// Roles of the binary that calls Check.
const (
	roleExec = "clients-exec" // become another program
	roleGo   = "clients-go"   // ask with Go's own resolver
)

// etc is what the clients find in /etc, whatever the machine has there.
// One attempt of ten seconds: a lost packet shall fail the test, not be repaired.
var etc = map[string]string{
	"resolv.conf":   "nameserver 192.0.2.53\noptions timeout:10 attempts:1\n",
	"nsswitch.conf": "hosts: files dns\n",
	"hosts":         "127.0.0.1 localhost\n::1 localhost\n",
}

// Roles are the processes of this package; a binary that calls Check has them
// among its own.
func Roles() testenv.Roles {
	roles := testenv.Roles{roleExec: execMain, roleGo: goMain}
	maps.Copy(roles, dnsteer.Roles())
	return roles
}

// within is argv, run where /etc is ours.
func within(tb testing.TB, argv ...string) *exec.Cmd {
	tb.Helper()
	return private(testenv.Command(tb, roleExec, append([]string{writeEtc(tb)}, argv...)...))
}

// withinGo is Go's resolver, run there.
func withinGo(tb testing.TB, q Question) *exec.Cmd {
	tb.Helper()
	return private(testenv.Command(tb, roleGo, writeEtc(tb), string(q.Kind), q.Name))
}

// private gives cmd a mount namespace that nobody else sees.
func private(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return cmd
}

func writeEtc(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, text := range etc {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			tb.Fatalf("write %s: %v", name, err)
		}
	}
	return dir
}

// mountEtc puts the files of dir over those of /etc. nsswitch.conf may be missing
// there, the default of the C library is then the same as ours.
func mountEtc(dir string) error {
	for name := range etc {
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

// execMain is the role: a directory for /etc, then the program and its arguments.
func execMain(args []string) int {
	if err := mountEtc(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	err := syscall.Exec(args[1], args[1:], os.Environ())
	fmt.Fprintf(os.Stderr, "execute %s: %v\n", args[1], err)
	return 125
}

// goMain is the role: a directory for /etc, a kind, a name. It prints what the
// programs in testdata print.
func goMain(args []string) int {
	if err := mountEtc(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	resolver := &net.Resolver{PreferGo: true}
	var lines []string
	var err error
	if Kind(args[1]) == Text {
		var texts []string
		texts, err = resolver.LookupTXT(context.Background(), args[2])
		for _, text := range texts {
			lines = append(lines, fmt.Sprint("text ", len(text)))
		}
	} else {
		var addrs []string
		addrs, err = resolver.LookupHost(context.Background(), args[2])
		for _, addr := range addrs {
			lines = append(lines, "address "+addr)
		}
	}
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		lines, err = []string{"not found"}, nil
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, line := range lines {
		fmt.Println(line)
	}
	return 0
}
