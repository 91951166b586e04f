// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/seed"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// roleDemo is the demo itself, with the path of the binary.
const roleDemo = "demo"

func TestMain(m *testing.M) {
	roles := testenv.Roles{roleDemo: func(args []string) int { return run(args[0], os.Stdout, os.Stderr) }}
	maps.Copy(roles, seed.Roles())
	maps.Copy(roles, etc.Roles())
	testenv.Main(m, roles)
}

func TestDemo(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(string(dnsteer.Build(t)), &stdout, &stderr); code != 0 {
		t.Errorf("exit code %d\n%s", code, &stderr)
	}
	for _, line := range []string{
		"netfilter REDIRECT, as mesh sidecars do      2000    1000    1000      0",
		"dnsteer, to the same resolver                2000    2000       0      0",
		"198.51.100.20 reviews.cluster2.example.org",
	} {
		if !strings.Contains(stdout.String(), line) {
			t.Errorf("no line %q in\n%s", line, &stdout)
		}
	}
	if lines := strings.Count(stdout.String(), "\n"); lines >= 30 {
		t.Errorf("%d lines do not fit a small terminal", lines)
	}
}

// TestWithoutNetfilter tells the story on a kernel that cannot redirect.
func TestWithoutNetfilter(t *testing.T) {
	var out bytes.Buffer
	d := &demo{
		out: &out, binary: dnsteer.Build(t),
		lacks: func(testing.TB) string { return "the redirect target (nft_redir)" },
	}
	rows, err := d.tell()
	if err == nil {
		err = d.conclude(rows)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "this kernel lacks the redirect target (nft_redir)\n") {
		t.Errorf("what is missing is not named:\n%s", &out)
	}
	if len(rows) != 2 {
		t.Errorf("%d rows, want the 2 that need no netfilter:\n%s", len(rows), &out)
	}
}

// TestWrongFigure shows that the demo does not claim what it did not see.
func TestWrongFigure(t *testing.T) {
	r := row{way: way{title: "dnsteer"}, got: seed.Expect("dnsteer")}
	r.got.App.Right--
	r.got.App.Lost++
	d := &demo{out: io.Discard}
	if err := d.conclude([]row{r}); err == nil {
		t.Error("a lost answer is no error")
	}
}

func TestWithoutRoot(t *testing.T) {
	cmd := testenv.Command(t, roleDemo, string(dnsteer.Build(t)))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, %v, want 1", code, err)
	}
	const want = "demo: root is needed to make network namespaces and to load BPF programs\ndemo: hint: sudo make demo\n"
	if string(out) != want {
		t.Errorf("output %q, want %q", out, want)
	}
}

// TestInterrupt presses Ctrl-C in the middle of each part.
func TestInterrupt(t *testing.T) {
	for _, at := range []string{"netfilter REDIRECT", "dnsteer, to the same resolver", "getent hosts"} {
		t.Run(at, func(t *testing.T) { interrupt(t, at) })
	}
}

func interrupt(t *testing.T, at string) {
	t.Helper()
	cmd := testenv.Command(t, roleDemo, string(dnsteer.Build(t)))
	// A process group of its own, as a shell would make it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("make pipe: %v", err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start demo: %v", err)
	}
	awaitText(t, stdout, at)
	if err := unix.Kill(-cmd.Process.Pid, unix.SIGINT); err != nil {
		t.Fatalf("interrupt demo: %v", err)
	}
	patience := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer patience.Stop()
	_, _ = io.Copy(io.Discard, stdout) // until it ends, which Wait tells
	err = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, %v, want 130\n%s", code, err, &stderr)
	}
	assertRemoved(t, cmd)
}

// awaitText reads until text, which may come before the end of its line.
func awaitText(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var seen strings.Builder
	for in := bufio.NewReaderSize(r, 1); !strings.HasSuffix(seen.String(), text); {
		c, err := in.ReadByte()
		if err != nil {
			t.Fatalf("wait for %q: %v after\n%s", text, err, &seen)
		}
		seen.WriteByte(c)
	}
}

// assertRemoved looks for what a demo leaves that does not clean up. Namespaces and
// mounts live in processes, for which testenv.Main looks at the end.
func assertRemoved(t *testing.T, demo *exec.Cmd) {
	t.Helper()
	for _, pattern := range []string{
		fmt.Sprintf("/sys/fs/cgroup/dnsteer-test-%d-*", demo.Process.Pid),
		fmt.Sprintf("/sys/fs/cgroup/unified/dnsteer-test-%d-*", demo.Process.Pid),
		filepath.Join(os.TempDir(), "dnsteer-*"), // the demo's run directory is in ours
	} {
		left, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}
