// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// NamespaceID tells one network namespace from another for as long as somebody holds it.
type NamespaceID struct{ Dev, Ino uint64 }

func (id NamespaceID) String() string { return fmt.Sprintf("net:[%d]", id.Ino) }

// Identify returns the ID of an open namespace.
func Identify(f *os.File) (NamespaceID, error) {
	info, err := f.Stat()
	if err != nil {
		return NamespaceID{}, err
	}
	st := info.Sys().(*syscall.Stat_t) // always, on Linux
	return NamespaceID{uint64(st.Dev), st.Ino}, nil
}

// namespaceOf returns the network namespace of a process: the path to open it by, and
// its ID. It is false if the process has ended.
func namespaceOf(proc string, pid int) (path string, id NamespaceID, ok bool) {
	path = filepath.Join(proc, strconv.Itoa(pid), "ns/net")
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return path, id, false
	}
	return path, NamespaceID{st.Dev, st.Ino}, true
}

// startTime returns when a process began, in ticks since boot; 0 if it has ended.
func startTime(proc string, pid int) uint64 {
	data, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	// "pid (name) state ppid ...": the name may have spaces and brackets. The start is
	// field 22, the twentieth after the name.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return 0
	}
	start, _ := strconv.ParseUint(fields[19], 10, 64)
	return start
}
