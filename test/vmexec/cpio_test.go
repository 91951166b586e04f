// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// entry is what a reader of an archive sees.
type entry struct {
	Name, Content string
	Mode          int
	Device        string
}

func TestArchive(t *testing.T) {
	var b bytes.Buffer
	a := newArchive(&b)
	a.device("dev/console", 5, 1)
	a.file("/a/b/one", modeFile, []byte("1"))
	a.file("a/b/empty", modeExec, nil)
	a.dir("/a/b/")
	a.dir("/")
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{"dev", "", modeDir, "0:0"},
		{"dev/console", "", modeChar, "5:1"},
		{"a", "", modeDir, "0:0"},
		{"a/b", "", modeDir, "0:0"},
		{"a/b/one", "1", modeFile, "0:0"},
		{"a/b/empty", "", modeExec, "0:0"},
		{"TRAILER!!!", "", 0, "0:0"},
	}
	if diff := cmp.Diff(want, readArchive(t, b.Bytes())); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// readArchive follows the format's description, not the writer.
func readArchive(t *testing.T, b []byte) []entry {
	t.Helper()
	var entries []entry
	next := 0
	take := func(n int) []byte {
		if next+n > len(b) {
			t.Fatalf("archive of %d bytes ends before %d", len(b), next+n)
		}
		next += n
		return b[next-n : next]
	}
	align := func() { take((4 - next%4) % 4) }
	for next < len(b) {
		if magic := string(take(6)); magic != "070701" {
			t.Fatalf("magic %q at %d", magic, next-6)
		}
		var fields [13]int
		for i := range fields {
			n, err := strconv.ParseUint(string(take(8)), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			fields[i] = int(n)
		}
		const mode, size, major, minor, nameSize = 1, 6, 9, 10, 11
		name := take(fields[nameSize])
		align()
		content := take(fields[size])
		align()
		if name[len(name)-1] != 0 {
			t.Fatalf("name %q does not end in NUL", name)
		}
		entries = append(entries, entry{
			Name: string(name[:len(name)-1]), Content: string(content), Mode: fields[mode],
			Device: fmt.Sprintf("%d:%d", fields[major], fields[minor]),
		})
	}
	return entries
}

// failingWriter has no room.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, fmt.Errorf("disk full") }

func TestArchiveKeepsFirstError(t *testing.T) {
	a := newArchive(failingWriter{})
	a.file("big", modeFile, make([]byte, 1<<20))
	if err := a.close(); err == nil {
		t.Error("close returned nil")
	}
}
