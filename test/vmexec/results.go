// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// exitEntry is the last file in the results and contains the exit code. Results
// without it are not whole.
const exitEntry = "vmexec/exit"

// packResults is the guest's side: the files that exist below the paths, then
// the exit code.
func packResults(w io.Writer, paths []string, code int) error {
	t := tar.NewWriter(w)
	for _, path := range paths {
		err := filepath.WalkDir(path, func(p string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return nil //nolint:nilerr // a test that failed need not have written its profile
			}
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return packFile(t, strings.TrimPrefix(p, "/"), content)
		})
		if err != nil {
			return err
		}
	}
	return errors.Join(packFile(t, exitEntry, []byte(strconv.Itoa(code))), t.Close())
}

func packFile(t *tar.Writer, name string, content []byte) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	_, err := t.Write(content)
	return err
}

// unpackResults is the host's side: it puts the files where they belong and
// returns the exit code.
func unpackResults(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for t := tar.NewReader(f); ; {
		header, err := t.Next()
		if errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("no exit code in its results")
		}
		if err != nil {
			return 0, fmt.Errorf("read results: %w", err)
		}
		content, err := io.ReadAll(t)
		if err != nil {
			return 0, fmt.Errorf("read results: %w", err)
		}
		if header.Name == exitEntry {
			return strconv.Atoi(string(content))
		}
		if err := os.WriteFile("/"+header.Name, content, 0o644); err != nil {
			return 0, err
		}
	}
}
