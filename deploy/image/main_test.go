// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The archive is a file as others: who may read it is for the umask to say. A run that fails
// leaves nothing, and the archive of before as it was.
func TestArchive(t *testing.T) {
	from, dir := t.TempDir(), t.TempDir()
	for i, name := range binaries {
		path := filepath.Join(from, name)
		if i > 0 {
			if err := os.Link(filepath.Join(from, binaries[0]), path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		build := exec.Command("go", "build", "-o", path, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	defer unix.Umask(unix.Umask(0o022))
	archive := filepath.Join(dir, "image.tar")
	image := func(name string) error { return run([]string{"-o", archive, "-from", from, "-name", name}, io.Discard) }
	if err := image("example.org/dnsteer:dev"); err != nil {
		t.Fatal(err)
	}
	made, err := os.Stat(archive)
	if err != nil {
		t.Fatal(err)
	}
	if made.Mode() != 0o644 {
		t.Errorf("mode %v", made.Mode())
	}
	if err := image("without-tag"); err == nil {
		t.Error("a name without a tag is taken")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	if now, err := os.Stat(archive); err != nil || !os.SameFile(made, now) {
		t.Errorf("the archive is another: %v", err)
	}
}

// Help is no mistake.
func TestHelp(t *testing.T) {
	var said strings.Builder
	if err := run([]string{"-h"}, &said); err != nil || !strings.Contains(said.String(), "-from") {
		t.Errorf("%v: %s", err, said.String())
	}
}
