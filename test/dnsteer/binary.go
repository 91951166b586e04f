// SPDX-License-Identifier: Apache-2.0

package dnsteer

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Binary is the path of a dnsteer executable.
type Binary string

// Build builds cmd/dnsteer of the tree that is tested, the way "make build" does,
// and returns the binary. One test run builds it once: TMPDIR is the run directory
// of testenv.Main.
func Build(tb testing.TB) Binary {
	tb.Helper()
	path := filepath.Join(os.TempDir(), "dnsteer")
	_, err := os.Stat(path)
	if err == nil {
		return Binary(path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		tb.Fatalf("look for dnsteer: %v", err)
	}
	// Beside it first: a parallel test must not start half a file.
	part, err := os.MkdirTemp("", "build-")
	if err != nil {
		tb.Fatalf("build dnsteer: %v", err)
	}
	defer os.RemoveAll(part)
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-trimpath",
		"-o", filepath.Join(part, "dnsteer"), "github.com/dnsteer/dnsteer/cmd/dnsteer")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build dnsteer: %v\n%s", err, out)
	}
	if err := os.Rename(filepath.Join(part, "dnsteer"), path); err != nil {
		tb.Fatalf("build dnsteer: %v", err)
	}
	return Binary(path)
}
