// SPDX-License-Identifier: Apache-2.0

package dnsteer

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// roleEnv is how testenv.Command tells a binary its role. A command that dnsteer
// starts gets it back through env(1), since our own role takes it away.
const roleEnv = "DNSTEER_TEST_ROLE="

// Place is where dnsteer runs.
type Place struct {
	Binary     Binary
	NetNS      *testenv.NetNS
	Cgroup     *testenv.Cgroup // dnsteer itself runs in it, and "dnsteer run" steers it
	ResolvConf string          // the text of /etc/resolv.conf
	// Etc is a directory of etc.Write whose files are there instead; empty for none.
	Etc string
}

// Command is dnsteer with arguments, not yet started: Start does that.
func (p Place) Command(tb testing.TB, args ...string) *exec.Cmd {
	tb.Helper()
	dir := p.Etc
	if dir == "" {
		dir = etc.Write(tb, p.ResolvConf)
	}
	cmd := etc.CommandOver(tb, dir, append([]string{string(p.Binary)}, args...)...)
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
