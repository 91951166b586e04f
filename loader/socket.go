// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// receiveBuffer lets a burst of some thousand queries wait while the resolver is not
// scheduled; the kernel's default loses them after a few hundred.
const receiveBuffer = 4 << 20

// loIndex is the interface index of lo in every network namespace.
const loIndex = 1

// socket is one listening socket. What it is can be read off the socket itself, so
// that a worker which inherits it needs no word about it.
type socket struct {
	file   *os.File
	fd     int // file's, which stays its owner
	stream bool
	family int
	tags   bool
	seal   bool // carries the scope, and is sent nothing
}

// openSocket opens one that is not bound yet.
func openSocket(family int, stream, tags bool) (*socket, error) {
	domain, kind := unix.AF_INET, unix.SOCK_DGRAM
	if family == familyIPv6 {
		domain = unix.AF_INET6
	}
	if stream {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &socket{file: os.NewFile(uintptr(fd), "listener"), fd: fd, stream: stream, family: family, tags: tags}, nil
}

// prepare sets the options that must be there before bind.
func (s *socket) prepare() error {
	var errs []error
	if s.stream {
		// Connections in TIME_WAIT must not keep a restarted resolver from its port.
		errs = append(errs, setInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	} else if !s.seal && setInt(s, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		errs = append(errs, setInt(s, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer))
	}
	if s.family == familyIPv6 {
		errs = append(errs, setInt(s, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	}
	if s.tags {
		errs = append(errs, s.keepLocal())
	}
	if s.seal {
		errs = append(errs, s.freeBind())
	}
	return errors.Join(errs...)
}

// freeBind allows an address that this host does not have, or not yet.
func (s *socket) freeBind() error {
	if s.family == familyIPv4 {
		return setInt(s, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	}
	return setInt(s, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
}

// keepLocal sees to it that a wildcard socket hears only what comes in by lo.
//
// For IPv4 that is a matter of binding to the device. The answers of an IPv6 socket
// would then be routed over lo alone, where the kernel knows ::1 and the tags: the
// host's other addresses are local routes of their own devices, and an answer to a
// socket that has one of those is ENETUNREACH. A filter leaves routing alone.
func (s *socket) keepLocal() error {
	if s.family == familyIPv4 {
		return os.NewSyscallError("bind to lo", unix.BindToDevice(s.fd, "lo"))
	}
	const ifindex = 0xfffff000 + 8 // SKF_AD_OFF + SKF_AD_IFINDEX of linux/filter.h
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: ifindex},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: loIndex, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return errors.Join(
		os.NewSyscallError("attach filter", unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &filter)),
		s.freeBind()) // to answer from an address that is only routed to this host
}

func (s *socket) address(port uint16) unix.Sockaddr {
	if s.seal {
		return sockaddr(netip.AddrPortFrom(sealAddress(s.family, port), port))
	}
	if s.family == familyIPv4 {
		a := &unix.SockaddrInet4{Port: int(port)}
		if !s.tags {
			a.Addr = [4]byte{127, 0, 0, 1}
		}
		return a
	}
	a := &unix.SockaddrInet6{Port: int(port)}
	if !s.tags {
		a.Addr = netip.IPv6Loopback().As16()
	}
	return a
}

func setInt(s *socket, level, option, value int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(s.fd, level, option, value))
}

// bind binds, and listens for TCP.
func (s *socket) bind(port uint16) error {
	if err := unix.Bind(s.fd, s.address(port)); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if !s.stream {
		return nil
	}
	return os.NewSyscallError("listen", unix.Listen(s.fd, unix.SOMAXCONN))
}

// share lets another socket of ours have the same port, and nobody else: SO_REUSEPORT
// asks for the same owner, and until unshare this one's is nobody's. Without CAP_CHOWN,
// or that UID in our user namespace, it stays our own; then who has that can share too.
func (s *socket) share(owner int) error {
	_ = unix.Fchown(s.fd, owner, -1)
	return setInt(s, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// unshare ends that. Who shares the port already keeps it.
func (s *socket) unshare() error {
	return errors.Join(
		setInt(s, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0),
		os.NewSyscallError("fchown", unix.Fchown(s.fd, os.Geteuid(), -1))) // to oneself: always allowed
}

// inspect finds out what a socket is that another process has opened.
func inspect(f *os.File) (*socket, uint16, error) {
	fd := int(f.Fd())
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, 0, os.NewSyscallError("getsockopt", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil, 0, os.NewSyscallError("getsockname", err)
	}
	s := &socket{file: f, fd: fd, stream: kind == unix.SOCK_STREAM}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		s.family, s.tags = familyIPv4, a.Addr == [4]byte{}
	case *unix.SockaddrInet6:
		s.family, s.tags = familyIPv6, a.Addr == [16]byte{}
	default:
		return nil, 0, fmt.Errorf("inspect socket: unexpected family %T", name)
	}
	local := addrPort(name)
	s.seal = local.Addr() == sealAddress(s.family, local.Port())
	return s, local.Port(), nil
}
