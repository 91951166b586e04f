// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestWrite(t *testing.T) {
	source := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(source, []byte("content"), 0o755); err != nil {
		t.Fatal(err)
	}
	files := []File{{Path: "/usr/bin/program", Source: source}, {Path: "/bin", Link: "usr/bin"}, {Path: "/a", Source: source, Mode: 0o600}}
	image := Image{Name: "example.org/program:1", Arch: "amd64", Entrypoint: []string{"/usr/bin/program"}}
	first := write(t, image, files)

	// Neither time nor order matters.
	if err := os.Chtimes(source, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	files[0], files[2] = files[2], files[0]
	if !bytes.Equal(first, write(t, image, files)) {
		t.Error("the same files made another archive")
	}

	content, err := layer(files)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"dev/", "etc/", "proc/", "run/", "sys/", "tmp/", "a -rw-------", "bin > usr/bin", "usr/", "usr/bin/", "usr/bin/program -rwxr-xr-x"}
	if diff := cmp.Diff(want, list(t, content)); diff != "" {
		t.Errorf("layer (-want +got)\n%s", diff)
	}
	names := list(t, first)
	if len(names) != 5 || !strings.HasPrefix(names[0], "oci-layout") || !strings.HasPrefix(names[4], "index.json") {
		t.Errorf("archive: %q", names)
	}
}

func TestWriteRefuses(t *testing.T) {
	source := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(source, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, image string
		files       []File
		want        string
	}{
		{"no tag", "example.org:5000/program", nil, "needs a registry and a tag"},
		{"no registry", "program:1", nil, "needs a registry and a tag"},
		{"relative", "example.org/p:1", []File{{Path: "a", Source: source}}, "not an absolute, clean path"},
		{"climbs", "example.org/p:1", []File{{Path: "/../a", Source: source}}, "not an absolute, clean path"},
		{"twice", "example.org/p:1", []File{{Path: "/a", Source: source}, {Path: "/a", Link: "b"}}, "there twice"},
		{"nothing", "example.org/p:1", []File{{Path: "/a"}}, "source or a link"},
		{"missing", "example.org/p:1", []File{{Path: "/a", Source: source + "x"}}, "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Write(io.Discard, Image{Name: tc.image}, tc.files)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

// full is a disk with so many bytes left.
type full struct{ left int }

func (f *full) Write(p []byte) (int, error) {
	n := min(len(p), f.left)
	f.left -= n
	if n < len(p) {
		return n, unix.ENOSPC
	}
	return n, nil
}

// A full disk is told of once, wherever it is noticed.
func TestFullDisk(t *testing.T) {
	image := Image{Name: "example.org/program:1"}
	for left := 0; left < len(write(t, image, nil)); left += 256 {
		err := Write(&full{left}, image, nil)
		if !errors.Is(err, unix.ENOSPC) || strings.Count(err.Error(), unix.ENOSPC.Error()) != 1 {
			t.Fatalf("with %d bytes left: %v", left, err)
		}
	}
}

func write(t *testing.T, image Image, files []File) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Write(&out, image, files); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// list tells what is in a tar archive.
func list(t *testing.T, archive []byte) []string {
	t.Helper()
	var names []string
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeSymlink:
			names = append(names, h.Name+" > "+h.Linkname)
		case tar.TypeReg:
			names = append(names, h.Name+" "+h.FileInfo().Mode().String())
		default:
			names = append(names, h.Name)
		}
	}
}
