// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// File is one file of an image. Exactly one of Source and Link is set.
type File struct {
	Path   string      // absolute; its directories need no entry
	Source string      // the file of this machine that it is a copy of
	Link   string      // what it links to
	Mode   fs.FileMode // permissions; zero means those of Source
}

// baseDirs are in every image: runtimes mount on them.
var baseDirs = []string{"dev", "etc", "proc", "run", "sys", "tmp"}

// layer is the files as a tar archive.
func layer(files []File) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	dirs := map[string]bool{}
	for _, dir := range baseDirs {
		if err := addDirs(w, dirs, dir); err != nil {
			return nil, err
		}
	}
	sorted := slices.SortedFunc(slices.Values(files), func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	for i, f := range sorted {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" {
			return nil, fmt.Errorf("add file %q: not an absolute, clean path", f.Path)
		}
		if i > 0 && sorted[i-1].Path == f.Path {
			return nil, fmt.Errorf("add file %q: it is there twice", f.Path)
		}
		name := strings.TrimPrefix(f.Path, "/")
		if err := addDirs(w, dirs, path.Dir(name)); err != nil {
			return nil, err
		}
		if err := addFile(w, name, f); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// addDirs adds dir and those above it, once.
func addDirs(w *tar.Writer, done map[string]bool, dir string) error {
	if dir == "." || done[dir] {
		return nil
	}
	if err := addDirs(w, done, path.Dir(dir)); err != nil {
		return err
	}
	done[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, Format: tar.FormatUSTAR})
}

func addFile(w *tar.Writer, name string, f File) error {
	if (f.Link == "") == (f.Source == "") {
		return fmt.Errorf("add file %q: it needs a source or a link, one of them", f.Path)
	}
	if f.Link != "" {
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: f.Link, Mode: 0o777, Format: tar.FormatPAX})
	}
	content, err := os.ReadFile(f.Source)
	if err != nil {
		return fmt.Errorf("add file %q: %w", f.Path, err)
	}
	if f.Mode == 0 {
		info, err := os.Stat(f.Source)
		if err != nil {
			return fmt.Errorf("add file %q: %w", f.Path, err)
		}
		f.Mode = info.Mode()
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(f.Mode.Perm()), Size: int64(len(content)), Format: tar.FormatPAX}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err = w.Write(content)
	return err
}
