// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxResolvConf is far beyond what a C library reads.
	maxResolvConf = 64 << 10
	// readTimeout is for a file whose filesystem is the pod's own (FUSE) or far away.
	readTimeout = time.Second
)

// ErrSilent says that a pod's file could not be read in time. What reads it may be
// blocked for good, so do not ask again for the same pod.
var ErrSilent = errors.New("its filesystem does not answer")

// ResolvConf returns the resolv.conf that a process sees. What it finds is the pod's:
// links are followed within the pod's own root, nothing but a plain file is read, and of
// that no more than 64 kB. Needs Linux 5.6 and CAP_SYS_PTRACE.
func ResolvConf(proc string, pid int) (string, error) {
	return inTime(func() (string, error) {
		return readBelow(filepath.Join(proc, strconv.Itoa(pid), "root"), "etc/resolv.conf")
	})
}

// inTime gives up on read after readTimeout, and leaves it behind.
func inTime(read func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := read()
		done <- result{text, err}
	}()
	timer := time.NewTimer(readTimeout)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.text, r.err
	case <-timer.C:
		return "", fmt.Errorf("read resolv.conf of pod: %w", ErrSilent)
	}
}

// readBelow reads a plain file below root.
func readBelow(root, path string) (string, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return "", fmt.Errorf("open %s in %s: %w", path, root, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("read %s in %s: no plain file", path, root)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return "", fmt.Errorf("read %s in %s: %w", path, root, err)
	}
	return string(text), nil
}
