// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// Modes of the files that an initramfs is made of.
const (
	modeDir  = 0o040755
	modeFile = 0o100644
	modeExec = 0o100755
	modeChar = 0o020666
)

// archive writes the cpio format that the kernel unpacks ("newc", without
// checksums: Documentation/driver-api/early-userspace/buffer-format.rst). The
// first error sticks and is what close returns.
type archive struct {
	w     *bufio.Writer
	dirs  map[string]bool
	inode int
	err   error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriter(w), dirs: make(map[string]bool)}
}

// dir adds a directory and those above it, each once.
func (a *archive) dir(name string) {
	name = strings.Trim(path.Clean("/"+name), "/")
	if name == "" || a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	a.dirs[name] = true
	a.entry(name, modeDir, 0, 0, nil)
}

// file adds a file, and the directories above it.
func (a *archive) file(name string, mode int, content []byte) {
	a.dir(path.Dir(name))
	a.entry(strings.Trim(name, "/"), mode, 0, 0, content)
}

// device adds a character device.
func (a *archive) device(name string, major, minor int) {
	a.dir(path.Dir(name))
	a.entry(strings.Trim(name, "/"), modeChar, major, minor, nil)
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	if a.err != nil {
		return a.err
	}
	return a.w.Flush()
}

// entry writes a header of thirteen hexadecimal numbers, the name and the
// content; header with name, and content, are each padded to four bytes.
func (a *archive) entry(name string, mode, major, minor int, content []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	const headerSize = 6 + 13*8
	_, err := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00%s%s%s",
		a.inode, mode, 0 /* uid */, 0 /* gid */, 1 /* links */, 0, /* time */
		len(content), 0, 0 /* device */, major, minor, len(name)+1, 0, /* checksum */
		name, padding(headerSize+len(name)+1), content, padding(len(content)))
	if err != nil {
		a.err = fmt.Errorf("add %s: %w", name, err)
	}
}

func padding(n int) string { return "\x00\x00\x00"[:(4-n%4)%4] }
