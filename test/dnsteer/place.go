// SPDX-License-Identifier: Apache-2.0

package dnsteer

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// roleConf gives a program a resolv.conf of its own and becomes that program.
const roleConf = "dnsteer-conf"

// roleEnv is how testenv.Command tells a binary its role. A command that dnsteer
// starts gets it back through env(1), since our own role takes it away.
const roleEnv = "DNSTEER_TEST_ROLE="

// Roles are the processes of this package; a binary that uses it has them among its
// own.
func Roles() testenv.Roles { return testenv.Roles{roleConf: confMain} }

// Place is where dnsteer runs.
type Place struct {
	Binary     Binary
	NetNS      *testenv.NetNS
	Cgroup     *testenv.Cgroup // dnsteer itself runs in it, and "dnsteer run" steers it
	ResolvConf string          // the text of /etc/resolv.conf; empty: that of the machine
}

// Command is dnsteer with arguments, not yet started: Start does that.
func (p Place) Command(tb testing.TB, args ...string) *exec.Cmd {
	tb.Helper()
	argv := append([]string{string(p.Binary)}, args...)
	var cmd *exec.Cmd
	if p.ResolvConf == "" {
		cmd = exec.Command(argv[0], argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	} else {
		conf := filepath.Join(tb.TempDir(), "resolv.conf")
		if err := os.WriteFile(conf, []byte(p.ResolvConf), 0o644); err != nil {
			tb.Fatalf("write resolv.conf: %v", err)
		}
		cmd = testenv.Command(tb, roleConf, append([]string{conf}, argv...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	}
	p.Cgroup.Enter(cmd)
	return cmd
}

// Exec changes cmd so that it runs under "dnsteer exec" with flags. Owner and
// environment stay; what else cmd's SysProcAttr demands does not.
func (p Place) Exec(tb testing.TB, cmd *exec.Cmd, flags ...string) {
	tb.Helper()
	args := append([]string{"exec"}, flags...)
	if attr := cmd.SysProcAttr; attr != nil && attr.Credential != nil {
		args = append(args, "--user", fmt.Sprint(attr.Credential.Uid))
	}
	args = append(args, "--")
	for _, v := range cmd.Env {
		if strings.HasPrefix(v, roleEnv) {
			args = append(args, "env", v)
		}
	}
	wrapped := p.Command(tb, append(args, cmd.Args...)...)
	if len(wrapped.Env) == 0 {
		wrapped.Env = os.Environ()
	}
	for _, v := range cmd.Env {
		if !strings.HasPrefix(v, roleEnv) {
			wrapped.Env = append(wrapped.Env, v)
		}
	}
	cmd.Path, cmd.Args, cmd.Env, cmd.SysProcAttr = wrapped.Path, wrapped.Args, wrapped.Env, wrapped.SysProcAttr
}

// Start starts cmd in the place's network namespace.
func (p Place) Start(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	p.NetNS.For(tb).Start(cmd)
}

// confMain is the role: a file for /etc/resolv.conf, then the program and its
// arguments. The mount namespace is the caller's to make.
func confMain(args []string) int {
	if err := unix.Mount(args[0], "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		fmt.Fprintf(os.Stderr, "mount over /etc/resolv.conf: %v\n", err)
		return 125
	}
	err := syscall.Exec(args[1], args[1:], os.Environ())
	fmt.Fprintf(os.Stderr, "execute %s: %v\n", args[1], err)
	return 125
}
