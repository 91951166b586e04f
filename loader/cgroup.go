// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CgroupRoot returns where the cgroup v2 hierarchy is mounted, also in a hybrid tree
// with v1 controllers beside it. The error wraps ErrNotCgroup2 if it is not mounted.
func CgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup v2: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// "36 35 98:0 /root /mount/point options... - fstype source superoptions"
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return unescapeMount(fields[4]), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("find cgroup v2: %w", err)
	}
	return "", fmt.Errorf("find cgroup v2 mount: %w", ErrNotCgroup2)
}

// unescapeMount undoes the octal escapes of mountinfo (see proc_pid_mountinfo(5)).
func unescapeMount(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// OwnCgroup returns the directory of the calling process's cgroup.
func OwnCgroup() (string, error) {
	root, err := CgroupRoot()
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find own cgroup: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return filepath.Join(root, path), nil
		}
	}
	return "", fmt.Errorf("find own cgroup: %w", ErrNotCgroup2)
}

// openCgroup opens a cgroup v2 directory and returns its id, which the kernel takes
// from the inode. The error wraps ErrCgroupGone if there is none, ErrNotCgroup2 if it
// is something else.
func openCgroup(path string) (*os.File, uint64, error) {
	dir, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("open cgroup: %w: %w", ErrCgroupGone, err)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open cgroup: %w", err)
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	err = errors.Join(unix.Fstatfs(int(dir.Fd()), &fs), unix.Fstat(int(dir.Fd()), &st))
	if err == nil && (fs.Type != unix.CGROUP2_SUPER_MAGIC || st.Mode&unix.S_IFMT != unix.S_IFDIR) {
		err = ErrNotCgroup2
	}
	if err != nil {
		_ = dir.Close()
		return nil, 0, fmt.Errorf("open cgroup %s: %w", path, err)
	}
	return dir, st.Ino, nil
}

// openCgroupID opens the cgroup with that id, wherever it is. The error wraps
// ErrCgroupGone if it was removed. Needs Linux 5.5 and CAP_DAC_READ_SEARCH.
func openCgroupID(id uint64) (*os.File, error) {
	root, err := CgroupRoot()
	if err != nil {
		return nil, err
	}
	mount, err := os.Open(root)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	defer mount.Close()
	const kernfs = 0xfe // FILEID_KERNFS: the id itself, in host byte order
	handle := unix.NewFileHandle(kernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(int(mount.Fd()), handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if errors.Is(err, unix.ESTALE) {
		return nil, fmt.Errorf("open cgroup %d: %w", id, ErrCgroupGone)
	}
	if err != nil {
		return nil, fmt.Errorf("open cgroup %d: %w", id, os.NewSyscallError("open_by_handle_at", err))
	}
	// Linux 5.10 opens a removed cgroup as long as something is attached to it, but it has
	// no files any more.
	if err := unix.Faccessat(fd, "cgroup.procs", unix.F_OK, 0); errors.Is(err, unix.ENOENT) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open cgroup %d: %w", id, ErrCgroupGone)
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		path = fmt.Sprintf("cgroup %d", id)
	}
	return os.NewFile(uintptr(fd), path), nil
}
