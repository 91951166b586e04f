// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sockets that were connected before the datapath came, or that outlive it, are moved
// by connecting them again: a UDP socket may connect as often as it likes, the hook
// runs for the cgroup of the socket whoever calls, and the application keeps its
// descriptor, port and peer name. TCP connections end by themselves.

// Resteer steers the UDP sockets of the cgroup's processes that are connected to a
// nameserver already, and returns how many it connected again. Call it after Enrol.
// Needs Linux 5.6 and CAP_SYS_PTRACE.
func (d *Datapath) Resteer() (int, error) {
	return d.reconnect(func(remote netip.AddrPort) bool { return remote.Port() == 53 }, connectAgain)
}

// Return gives the UDP sockets that are connected to a target back to their
// nameserver, and returns how many. Steering must have ended: it would take them again.
func (d *Datapath) Return() (int, error) {
	isTarget := func(remote netip.AddrPort) bool {
		_, tag := tagNumber(remote.Addr(), d.Port())
		return remote.Port() == d.Port() && (tag || remote.Addr().Unmap().IsLoopback())
	}
	return d.reconnect(isTarget, connectBack)
}

// reconnect calls again on every UDP socket of the cgroup's processes whose remote
// address matches. A process or socket that goes meanwhile is no error.
func (d *Datapath) reconnect(match func(netip.AddrPort) bool, again func(fd int) (bool, error)) (int, error) {
	pids, err := processes(d.opts.Cgroup)
	if err != nil {
		return 0, err
	}
	namespaces := make(map[string]map[string]bool)
	var moved int
	var errs []error
	for _, pid := range pids {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			continue // ended
		}
		if namespaces[ns] == nil {
			namespaces[ns] = connectedSockets(pid, match)
		}
		n, err := reconnectProcess(pid, namespaces[ns], again)
		moved += n
		errs = append(errs, err)
	}
	return moved, errors.Join(errs...)
}

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
		for _, field := range strings.Fields(string(data)) {
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

// connectedSockets returns the /proc/PID/fd names of the UDP sockets in the process's
// network namespace whose remote address matches.
func connectedSockets(pid int, match func(netip.AddrPort) bool) map[string]bool {
	sockets := make(map[string]bool)
	for _, table := range []string{"udp", "udp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			continue // ended, or no IPv6
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			// "sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ..."
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 {
				continue
			}
			if remote, ok := parseProcAddress(fields[2]); ok && match(remote) {
				sockets["socket:["+fields[9]+"]"] = true
			}
		}
		_ = f.Close()
	}
	return sockets
}

// parseProcAddress reads the kernel's "0100007F:3ACD": 32-bit words in host byte
// order, then the port.
func parseProcAddress(s string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(address)
	p, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}

func reconnectProcess(pid int, sockets map[string]bool, again func(fd int) (bool, error)) (int, error) {
	if len(sockets) == 0 {
		return 0, nil
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, nil //nolint:nilerr // ended
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, nil //nolint:nilerr // ended
	}
	defer unix.Close(process)
	var moved int
	var errs []error
	for _, entry := range entries {
		name, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil || !sockets[name] {
			continue
		}
		// Once is enough: a process that shares the socket need not be asked again.
		delete(sockets, name)
		ok, err := reconnectDescriptor(process, entry.Name(), again)
		if ok {
			moved++
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("connect %s of process %d again: %w", name, pid, err))
		}
	}
	return moved, errors.Join(errs...)
}

func reconnectDescriptor(process int, name string, again func(fd int) (bool, error)) (bool, error) {
	number, err := strconv.Atoi(name)
	if err != nil {
		return false, nil //nolint:nilerr // not a descriptor
	}
	fd, err := unix.PidfdGetfd(process, number, 0)
	if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("pidfd_getfd", err)
	}
	defer unix.Close(fd)
	return again(fd)
}

// connectAgain connects a socket to the peer that it has. The hook does the rest.
func connectAgain(fd int) (bool, error) {
	peer, err := unix.Getpeername(fd)
	if errors.Is(err, unix.ENOTCONN) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("getpeername", err)
	}
	return true, os.NewSyscallError("connect", unix.Connect(fd, peer))
}

// connectBack connects a socket to the nameserver that getpeername shows, which the
// datapath's hook puts there. A socket that shows the target addressed it on purpose.
func connectBack(fd int) (bool, error) {
	peer, err := unix.Getpeername(fd)
	if errors.Is(err, unix.ENOTCONN) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("getpeername", err)
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return false, os.NewSyscallError("getsockname", err)
	}
	if portOf(peer) != 53 {
		return false, nil
	}
	if isLoopback(local) && !isLoopback(peer) {
		// A loopback source leads nowhere but to loopback. Disconnecting forgets it, and
		// the port with it, which we ask for again; if somebody was faster the kernel
		// gives another.
		if err := disconnect(fd); err != nil {
			return false, err
		}
		_ = unix.Bind(fd, wildcard(local))
	}
	return true, os.NewSyscallError("connect", unix.Connect(fd, peer))
}

func disconnect(fd int) error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return os.NewSyscallError("disconnect", errno)
	}
	return nil
}

func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch a := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

func portOf(s unix.Sockaddr) uint16   { return addrPort(s).Port() }
func isLoopback(s unix.Sockaddr) bool { return addrPort(s).Addr().IsLoopback() }

// wildcard is the unspecified address of the same family and port.
func wildcard(s unix.Sockaddr) unix.Sockaddr {
	if a, ok := s.(*unix.SockaddrInet4); ok {
		return &unix.SockaddrInet4{Port: a.Port}
	}
	return &unix.SockaddrInet6{Port: int(portOf(s))}
}
