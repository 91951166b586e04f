// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever a guest does, vmexec ends in time, with the right exit code and, unless the
// guest ended by itself, with the kernel's log.
func TestGuestEnds(t *testing.T) {
	l := newTestLab(t)
	build, err := l.archive.Newest("6.1")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := l.archive.Unpack(t.Context(), build)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "misbehave")
	compile := exec.Command("go", "build", "-o", program, "./misbehave")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("build misbehave: %v: %s", err, out)
	}
	for _, tc := range []struct {
		how            string
		limit          string
		code           int
		stdout, stderr string // are in it
		log            bool
	}{
		{"well", "10m", 0, "shipped\n\x16\x00\xff\r\n", "", false},
		{"exit", "10m", 3, "", "", false},
		{"killed", "10m", 128 + 9, "signal: killed", "", false},
		{"hang", "40s", 125, "", "guest still ran after 40s, killed", true},
		{"panic", "10m", 125, "", "Kernel panic - not syncing: sysrq triggered crash", true},
		{"reboot", "10m", 125, "", "guest died before its binary ended", true},
	} {
		t.Run(tc.how, func(t *testing.T) {
			t.Parallel()
			profile := filepath.Join(t.TempDir(), "profile")
			cmd := exec.CommandContext(t.Context(), l.runner, "-kernel", dir, "-limit", tc.limit, "-modules", "", "-memory", "512",
				program, "-test.coverprofile="+profile, tc.how)
			cmd.Dir = "misbehave"
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			if !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) {
				t.Errorf("printed %q and %q, want %q and %q", &stdout, &stderr, tc.stdout, tc.stderr)
			}
			// Of a guest that a busy machine starved, it may be empty.
			if log := strings.Contains(stderr.String(), "--- kernel log of the guest\n"); log != tc.log {
				t.Errorf("printed the kernel's log: %t, want %t", log, tc.log)
			}
			if content, _ := os.ReadFile(profile); (string(content) == "shipped\n") != (tc.how == "well") {
				t.Errorf("the file that came back contains %q", content)
			}
		})
	}
}
