// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// leak plays a test run that leaves one thing behind.
func leak(args []string) int {
	return guard(os.Stdout, func() int {
		if err := leakOne(args[0]); err != nil {
			fmt.Println(err)
			return 3
		}
		return 0
	})
}

func leakOne(what string) error {
	switch what {
	case "nothing":
		return nil
	case "descriptor":
		// Not an os.File, which the garbage collector may close.
		_, err := unix.Open("/dev/zero", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	case "goroutine":
		go func() { select {} }()
		return nil
	case "cgroup":
		root, err := cgroup2Mount()
		if err != nil {
			return err
		}
		return os.Mkdir(filepath.Join(root, cgroupPrefix()+"leak"), 0o755)
	case "mount":
		dir, err := os.MkdirTemp("", "")
		if err != nil {
			return err
		}
		return unix.Mount("bpf", dir, "bpf", 0, "")
	case "namespace":
		return errors.Join(
			unix.Mount("none", "/run", "tmpfs", 0, ""),
			os.Mkdir(netnsDir, 0o755),
			os.WriteFile(netnsDir+"/leak", nil, 0o644),
			unix.Mount("/proc/self/ns/net", netnsDir+"/leak", "", unix.MS_BIND, ""),
		)
	case "pin":
		return errors.Join(
			unix.Mount("bpf", "/run", "bpf", 0, ""),
			os.MkdirAll("/run/dnsteer/42", 0o755),
		)
	case "process", "zombie":
		argv := []string{"sleep", "60"}
		if what == "zombie" {
			argv = []string{"true"}
		}
		process, err := os.StartProcess("/bin/"+argv[0], argv, &os.ProcAttr{})
		if err != nil {
			return err
		}
		fmt.Println("pid", process.Pid)
		return nil
	}
	return fmt.Errorf("leak %q: unknown", what)
}

func TestLeaksAreFound(t *testing.T) {
	for _, tc := range []struct{ leak, want string }{
		{"nothing", ""},
		{"descriptor", "(/dev/zero) is still open"},
		{"goroutine", "leakOne"},
		{"cgroup", "-leak still exists"},
		{"mount", "bpf at "},
		{"namespace", "namespace /run/netns/leak is still mounted"},
		{"pin", "/run/dnsteer/42 is still pinned"},
		{"process", "(sleep), child of "},
		{"zombie", "(true), child of "},
	} {
		t.Run(tc.leak, func(t *testing.T) {
			t.Parallel() // each waits in vain for its leak to go away
			cmd := Command(t, "leak", tc.leak)
			// In a cgroup and with mounts of its own, so that what it leaks ends
			// with this test.
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			out := new(strings.Builder)
			cmd.Stdout = out
			cg := NewCgroup(t)
			cg.Start(cmd)
			err := cmd.Wait()
			removeLeakedCgroup(t, cmd.Process.Pid)
			if (err != nil) != (tc.want != "") {
				t.Errorf("run ended with %v\n%s", err, out)
			}
			if !strings.Contains(out.String(), tc.want) {
				t.Errorf("run said %q, want %q in it", out, tc.want)
			}
		})
	}
}

// removeLeakedCgroup undoes the leak of the case "cgroup".
func removeLeakedCgroup(t *testing.T, pid int) {
	t.Helper()
	root, err := cgroup2Mount()
	if err != nil {
		t.Fatal(err)
	}
	if err := removeCgroup(filepath.Join(root, fmt.Sprintf("dnsteer-test-%d-leak", pid))); err != nil {
		t.Error(err)
	}
}
