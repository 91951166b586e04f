// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// What /proc and the cgroup tree tell of processes and their sockets.

// processes lists the processes of a cgroup and of all below it.
func processes(cgroup string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(cgroup, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a cgroup that was removed meanwhile
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil //nolint:nilerr // removed, or a threaded cgroup: its processes are listed above it
		}
		for field := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 { // 0: outside our PID namespace
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list processes of %s: %w", cgroup, err)
	}
	return pids, nil
}

// allProcesses lists every process that we can see.
func allProcesses() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// procSocket is a line of /proc/net/udp, udp6, tcp or tcp6.
type procSocket struct {
	local, remote netip.AddrPort // v4-mapped addresses as IPv4; port 0: none
	inode         uint64
}

// readSocketTable reads one of these files.
func readSocketTable(path string) ([]procSocket, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var sockets []procSocket
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if s, ok := parseProcSocket(lines.Text()); ok {
			sockets = append(sockets, s)
		}
	}
	return sockets, lines.Err()
}

// parseProcSocket reads
// "sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode ...".
func parseProcSocket(line string) (s procSocket, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 {
		return s, false
	}
	local, localOK := parseProcAddress(fields[1])
	remote, remoteOK := parseProcAddress(fields[2])
	inode, err := strconv.ParseUint(fields[9], 10, 64)
	return procSocket{local, remote, inode}, localOK && remoteOK && err == nil
}

// parseProcAddress reads the kernel's "0100007F:3ACD": 32-bit words in host byte
// order, then the port.
func parseProcAddress(s string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil || len(port) != 4 || len(address)%8 != 0 {
		return netip.AddrPort{}, false
	}
	var raw []byte
	for ; address != ""; address = address[8:] {
		word, err := strconv.ParseUint(address[:8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		raw = binary.NativeEndian.AppendUint32(raw, uint32(word))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}

// socketInode reads the "socket:[123]" of a link in /proc/PID/fd.
func socketInode(name string) (uint64, bool) {
	number, ok := strings.CutPrefix(name, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
	return inode, err == nil
}
