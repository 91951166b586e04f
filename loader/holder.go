// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holder finds a process of the leak's cgroup that has its TCP socket.
func holder(l Leak) (pid uint32, command string) {
	pids, err := processes(l.Cgroup)
	if err != nil {
		return 0, ""
	}
	seen := make(map[string]bool)
	inodes := make(map[uint64]bool)
	for _, pid := range pids {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		for _, table := range []string{"tcp", "tcp6"} {
			sockets, _ := readSocketTable(fmt.Sprintf("/proc/%d/net/%s", pid, table))
			for _, s := range sockets {
				if s.local.Port() == l.Port && s.remote.Port() == 53 && s.remote.Addr() == l.Server {
					inodes[s.inode] = true
				}
			}
		}
	}
	for _, pid := range pids {
		if holds(pid, inodes) {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			return uint32(pid), strings.TrimSuffix(string(comm), "\n")
		}
	}
	return 0, ""
}

// holds tells whether a process has one of the sockets open.
func holds(pid int, inodes map[uint64]bool) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil || len(inodes) == 0 {
		return false
	}
	for _, entry := range entries {
		name, _ := os.Readlink(filepath.Join(dir, entry.Name()))
		if inode, ok := socketInode(name); ok && inodes[inode] {
			return true
		}
	}
	return false
}
