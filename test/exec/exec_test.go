// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// TestEnd compares how dnsteer exec ends with how CMD does.
func TestEnd(t *testing.T) {
	p := newPlace(t)
	for _, tc := range []struct {
		name   string
		argv   []string
		code   int
		signal syscall.Signal // that ended it
	}{
		{name: "success", argv: []string{"true"}},
		{name: "failure", argv: []string{"false"}, code: 1},
		{name: "code", argv: []string{"sh", "-c", "exit 42"}, code: 42},
		{name: "SIGTERM", argv: []string{"sh", "-c", "kill -TERM $$"}, signal: unix.SIGTERM},
		{name: "SIGKILL", argv: []string{"sh", "-c", "kill -KILL $$"}, signal: unix.SIGKILL},
		{name: "SIGINT", argv: []string{"sh", "-c", "kill -INT $$"}, signal: unix.SIGINT},
		// Limit: Go's runtime cannot die of these. The code is what a shell shows.
		{name: "SIGSEGV", argv: []string{"sh", "-c", "kill -SEGV $$"}, code: 128 + 11},
		{name: "SIGABRT", argv: []string{"sh", "-c", "kill -ABRT $$"}, code: 128 + 6},
		{name: "no such command", argv: []string{"no-such-command"}, code: 127},
		{name: "no program", argv: []string{"/etc/passwd"}, code: 126},
		{name: "no interpreter", argv: []string{script(t, "#!/no-such-interpreter\n")}, code: 127},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := p.Command(t, append([]string{"exec", "--"}, tc.argv...)...)
			_, stderr := run(t, p, cmd)
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			var signal syscall.Signal
			if status.Signaled() {
				signal = status.Signal()
			}
			if code := max(status.ExitStatus(), 0); code != tc.code || signal != tc.signal {
				t.Errorf("code %d, signal %d, want %d, %d\n%s", code, signal, tc.code, tc.signal, stderr)
			}
			dnsteer.AssertGone(t, p, "")
		})
	}
}

// script makes an executable file.
func script(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSignals sends signals to dnsteer alone, with no terminal: CMD gets them.
func TestSignals(t *testing.T) {
	p := newPlace(t)
	cmd := testenv.Command(t, roleSignals)
	p.Exec(t, cmd)
	cmd.SysProcAttr.Setsid = true
	c := start(t, p, cmd)
	for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatalf("signal: %v", err)
		}
		if got, want := c.line(t), unix.SignalName(s); got != want {
			t.Errorf("CMD got %s, want %s", got, want)
		}
	}
	_ = cmd.Wait() // its code is looked at below
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit code %d, want 7\n%s", code, &c.stderr)
	}
	dnsteer.AssertGone(t, p, "")
}

// TestPassThrough sends more than a pipe holds through CMD.
func TestPassThrough(t *testing.T) {
	p := newPlace(t)
	in := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	cmd := p.Command(t, "exec", "--", "sh", "-c", "cat; echo done >&2")
	cmd.Stdin = bytes.NewReader(in)
	stdout, stderr := run(t, p, cmd)
	if stdout != string(in) {
		t.Errorf("%d bytes came back, want the same %d", len(stdout), len(in))
	}
	if stderr != "done\n" {
		t.Errorf("stderr: %q", stderr)
	}
}

// TestDescriptors looks for what CMD inherits: what it would without dnsteer.
func TestDescriptors(t *testing.T) {
	p := newPlace(t)
	want, _ := run(t, p, etc.Command(t, p.ResolvConf, "ls", "/proc/self/fd"))
	got, stderr := run(t, p, p.Command(t, "exec", "--", "ls", "/proc/self/fd"))
	if diff := cmp.Diff(strings.Fields(want), strings.Fields(got)); diff != "" {
		t.Errorf("descriptors (-want +got):\n%s\n%s", diff, stderr)
	}
}

// TestIdentity looks at as whom CMD runs.
func TestIdentity(t *testing.T) {
	p := newPlace(t)
	const show = `echo $(id -u) $(id -g) $(grep -c "^CapEff:.*0000000000000000$" /proc/self/status)`
	for _, tc := range []struct {
		name  string
		env   []string
		flags []string
		want  string // UID, GID, 1 if it has no capabilities
	}{
		{name: "as we are", want: "0 0 0"},
		{name: "sudo", env: []string{"SUDO_UID=2001", "SUDO_GID=2002"}, want: "2001 2002 1"},
		{name: "sudo by root", env: []string{"SUDO_UID=0", "SUDO_GID=0"}, want: "0 0 0"},
		{name: "user", flags: []string{"--user", "nobody"}, want: "65534 65534 1"},
		{name: "number", flags: []string{"--user", "2003"}, want: "2003 2003 1"},
		{name: "user before sudo", env: []string{"SUDO_UID=2001", "SUDO_GID=2002"}, flags: []string{"--user", "root"}, want: "0 0 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := append(append([]string{"exec"}, tc.flags...), "--", "sh", "-c", show)
			cmd := p.Command(t, args...)
			cmd.Env = append(cmd.Env, tc.env...)
			stdout, stderr := run(t, p, cmd)
			if got := strings.TrimSpace(stdout); got != tc.want {
				t.Errorf("CMD runs as %q, want %q\n%s", got, tc.want, stderr)
			}
		})
	}
}

// TestIdentityAsks shows that an ordinary user's queries are steered.
func TestIdentityAsks(t *testing.T) {
	p := newPlace(t)
	cmd := testenv.Command(t, roleAsk, nameserver.String(), tableName)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 2001, Gid: 2001}}
	p.Exec(t, cmd, "--hosts", writeHosts(t, "198.51.100.20"))
	if got := start(t, p, cmd).finish(t); !cmp.Equal(got, []string{"198.51.100.20"}) {
		t.Errorf("answers %v", got)
	}
}

// TestNested runs dnsteer exec under dnsteer exec. The inner table answers first, and
// what it does not know goes to the nameserver, past the outer table: a resolver's
// own queries are never steered.
func TestNested(t *testing.T) {
	p := newPlace(t)
	inner := testenv.Command(t, roleAsk, nameserver.String(), tableName, "www.example.org")
	p.Exec(t, inner, "--hosts", writeHosts(t, "198.51.100.21"))
	outer := exec.Command(inner.Args[0], inner.Args[1:]...)
	outer.Env = inner.Env
	p.Exec(t, outer, "--hosts", writeHosts(t, "198.51.100.20"))
	want := []string{"198.51.100.21", testenv.AnswerOf(nameserver.Addr()).String()}
	if got := start(t, p, outer).finish(t); !cmp.Equal(got, want) {
		t.Errorf("answers %v, want %v", got, want)
	}
	dnsteer.AssertGone(t, p, "")
}

// TestInterruptedEarly sends SIGTERM while dnsteer is still setting up, at moments
// all over that time.
func TestInterruptedEarly(t *testing.T) {
	p := newPlace(t)
	for after := time.Duration(0); after < 300*time.Millisecond; after += 20 * time.Millisecond {
		cmd := p.Command(t, "exec", "--", "cat")
		stdin, err := cmd.StdinPipe() // cat ends with it, should no signal reach it
		if err != nil {
			t.Fatalf("make pipe: %v", err)
		}
		p.Start(t, cmd)
		<-time.After(after)
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatalf("signal: %v", err)
		}
		_ = cmd.Wait() // however it ended
		stdin.Close()
		dnsteer.AssertGone(t, p, "")
		if t.Failed() {
			t.Fatalf("interrupted after %v", after)
		}
	}
}
