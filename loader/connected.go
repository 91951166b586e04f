// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// connectedSocket is a UDP socket to be connected again.
type connectedSocket struct {
	procSocket
	fd  int // ours, of the same socket; negative until somebody was found who holds it
	pid int // whom we have it of
}

// namespace is a network namespace, and such sockets in it.
type namespace struct {
	file    *os.File
	own     bool // the calling thread's
	sockets map[uint64]*connectedSocket
}

// namespaces are these by name, "net:[4026531840]".
type namespaces map[string]*namespace

// findNamespaces looks for sockets whose remote address matches in the namespaces of
// the processes; if there are names, in those of these names.
func findNamespaces(pids []int, names []string, match func(netip.AddrPort) bool) namespaces {
	own, _ := os.Readlink("/proc/thread-self/ns/net")
	all := make(namespaces)
	for _, pid := range pids {
		path := fmt.Sprintf("/proc/%d/ns/net", pid)
		name, err := os.Readlink(path)
		if err != nil || all[name] != nil || len(names) > 0 && !slices.Contains(names, name) {
			continue // ended, known, or not asked for
		}
		file, err := os.Open(path)
		if err != nil {
			continue // ended
		}
		ns := &namespace{file: file, own: name == own, sockets: make(map[uint64]*connectedSocket)}
		all[name] = ns
		for _, s := range readUDP(fmt.Sprintf("/proc/%d/net", pid)) {
			if match(s.remote) {
				ns.sockets[s.inode] = &connectedSocket{procSocket: s, fd: -1}
			}
		}
	}
	return all
}

// readUDP reads both tables; without IPv6 there is one.
func readUDP(dir string) []procSocket {
	ipv4, _ := readSocketTable(filepath.Join(dir, "udp"))
	ipv6, _ := readSocketTable(filepath.Join(dir, "udp6"))
	return append(ipv4, ipv6...)
}

func (all namespaces) find(inode uint64) *connectedSocket {
	for _, ns := range all {
		if s := ns.sockets[inode]; s != nil {
			return s
		}
	}
	return nil
}

// missing tells whether there are sockets that nobody was found to hold.
func (all namespaces) missing() bool {
	for _, ns := range all {
		for _, s := range ns.sockets {
			if s.fd < 0 {
				return true
			}
		}
	}
	return false
}

// collect gets a descriptor of each socket from the processes that hold it. A socket
// may be held in another namespace than its own.
func (all namespaces) collect(pids []int) error {
	var errs []error
	for _, pid := range pids {
		if !all.missing() {
			break
		}
		if err := all.collectFrom(pid); err != nil {
			errs = append(errs, fmt.Errorf("get sockets of process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

func (all namespaces) collectFrom(pid int) error {
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // ended, or no process but a thread
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(process)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil //nolint:nilerr // ended
	}
	for _, entry := range entries {
		name, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue
		}
		inode, ok := socketInode(name)
		s := all.find(inode)
		if !ok || s == nil || s.fd >= 0 {
			continue
		}
		number, _ := strconv.Atoi(entry.Name()) // the kernel's own
		if err := s.get(process, number); err != nil {
			return err
		}
		s.pid = pid
	}
	return nil
}

// get duplicates the descriptor, and makes sure that it is still the same socket's.
func (s *connectedSocket) get(process, number int) error {
	fd, err := unix.PidfdGetfd(process, number, 0)
	if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_getfd", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != s.inode {
		_ = unix.Close(fd)
		return nil //nolint:nilerr // closed meanwhile
	}
	s.fd = fd
	return nil
}

func (all namespaces) close() {
	for _, ns := range all {
		for _, s := range ns.sockets {
			if s.fd >= 0 {
				_ = unix.Close(s.fd)
			}
		}
		_ = ns.file.Close()
	}
}

// enter runs f on a thread in the namespace; a foreign one takes CAP_SYS_ADMIN.
func (ns *namespace) enter(f func()) error {
	if ns.own {
		f()
		return nil
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		result <- os.NewSyscallError("setns", err)
	}()
	return <-result
}

// move connects the sockets of all namespaces again, and enters no others: that takes a
// privilege.
func (all namespaces) move(again func(fd int) (bool, error), late *latecomers) (moved int, err error) {
	var errs []error
	for _, ns := range all {
		if len(ns.sockets) == 0 {
			continue
		}
		err := ns.enter(func() {
			n, err := ns.move(again, late)
			moved += n
			errs = append(errs, err)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("enter network namespace: %w", err))
		}
	}
	return moved, errors.Join(errs...)
}

// move connects the sockets again; the thread is in their namespace.
func (ns *namespace) move(again func(fd int) (bool, error), late *latecomers) (int, error) {
	var moved int
	var errs []error
	var listening []*latecomer
	for _, s := range ns.sockets {
		if s.fd < 0 {
			continue
		}
		c, restore := listenLate(s)
		if c != nil {
			listening = append(listening, c)
		}
		ok, err := again(s.fd)
		restore()
		if ok && err == nil {
			moved++
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("connect socket %s of process %d again: %w", s.local, s.pid, err))
		}
	}
	if len(listening) > 0 {
		late.welcome(listening, readUDP("/proc/thread-self/net"))
	}
	return moved, errors.Join(errs...)
}
