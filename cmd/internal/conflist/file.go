// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxSize bounds a configuration; real ones have some kilobytes.
const maxSize = 1 << 20

// asidePrefix and asideSuffix are of files that are being written. Runtimes go by the
// extension, and do not know this one.
const (
	asidePrefix = ".dnsteer-"
	asideSuffix = ".tmp"
)

// staleAge is when a file that is being written is written by nobody any more.
const staleAge = time.Minute

// asideOf is the name beside path.
func asideOf(path string) string {
	return filepath.Join(filepath.Dir(path), asidePrefix+strconv.Itoa(os.Getpid())+"-"+filepath.Base(path)+asideSuffix)
}

// errChanged says that somebody else wrote the file meanwhile.
var errChanged = errors.New("it was changed meanwhile")

// file is a file as it was read.
type file struct {
	path string
	text []byte
	info os.FileInfo
}

// readFile reads a regular file. A link is refused: replacing it would leave its target
// as it was, and what it names may be another file in the agent's container.
func readFile(path string) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("read %s: it is a symbolic link, which cannot be edited in one step", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSize {
		return nil, fmt.Errorf("read %s: %w: it is not a file of at most %d bytes", path, ErrInvalid, maxSize)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return &file{path, text, info}, nil
}

// writeAside writes a file beside path, with mode and owner of another, to the disk.
func writeAside(path string, text []byte, like os.FileInfo) (string, error) {
	aside := asideOf(path)
	if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	f, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	uid, gid := owner(like)
	_, err = f.Write(text)
	err = errors.Join(err, f.Chown(uid, gid), f.Chmod(like.Mode().Perm()), f.Sync(), f.Close())
	if err != nil {
		_ = os.Remove(aside)
		return "", err
	}
	return aside, nil
}

// sweep removes what a process left that died while it wrote.
func sweep(dir string, age time.Duration) {
	paths, _ := filepath.Glob(filepath.Join(globEscape(dir), asidePrefix+"*"+asideSuffix))
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil {
			continue
		}
		// Its last rename, not its last write: it may be a file that was replaced.
		if time.Since(time.Unix(info.Sys().(*syscall.Stat_t).Ctim.Unix())) >= age {
			_ = os.Remove(path)
		}
	}
}

func owner(info os.FileInfo) (uid, gid int) {
	st := info.Sys().(*syscall.Stat_t) // always, on Linux
	return int(st.Uid), int(st.Gid)
}

// replace puts text where the file was read, in one step, unless somebody else wrote it
// meanwhile, which is errChanged. Two agents that edit the same file with read, edit and
// rename can undo each other's work; the exchange of two names shows what was replaced.
func (f *file) replace(text []byte) error {
	aside, err := writeAside(f.path, text, f.info)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	defer os.Remove(aside) // ours if it failed, theirs if it succeeded
	ours, err := os.Lstat(aside)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	err = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, f.path, unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS): // the filesystem cannot
		return f.rename(aside)
	case errors.Is(err, unix.ENOENT):
		return errChanged
	case err != nil:
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if !f.is(aside) {
		if now, err := os.Lstat(f.path); err == nil && os.SameFile(now, ours) {
			_ = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, f.path, unix.RENAME_EXCHANGE)
		}
		return errChanged
	}
	return syncDir(filepath.Dir(f.path))
}

// rename is replace where names cannot be exchanged, with a moment in between.
func (f *file) rename(aside string) error {
	if !f.is(f.path) {
		return errChanged
	}
	if err := os.Rename(aside, f.path); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	return syncDir(filepath.Dir(f.path))
}

// is tells whether what is at path is still what was read.
func (f *file) is(path string) bool {
	now, err := readFile(path)
	return err == nil && os.SameFile(now.info, f.info) && bytes.Equal(now.text, f.text)
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("write directory: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("write directory: %w", err)
	}
	return nil
}
