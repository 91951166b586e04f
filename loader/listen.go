// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// receiveBuffer lets a burst of some thousand queries wait while the resolver is not
// scheduled; the kernel's default loses them after a few hundred.
const receiveBuffer = 4 << 20

// Listeners are the sockets of one scope: for UDP and TCP, on the loopback address
// and, for tags, on a wildcard address bound to the loopback interface; for IPv4 and,
// where the namespace has it, IPv6. Close them.
type Listeners struct {
	Port    uint16
	sockets []*socket
}

// socket is one listening socket. What it is can be read off the socket itself, so
// that a worker which inherits it needs no word about it.
type socket struct {
	file   *os.File
	fd     int // file's, which stays its owner
	stream bool
	family int
	tags   bool
}

// Listen opens the sockets of a scope in the network namespace of the calling thread.
//
// The UDP socket on 127.0.0.1 is the lock: nobody else can have it, so two that start
// at once cannot share a port. The error wraps unix.EADDRINUSE if the port is taken.
func Listen(port uint16) (*Listeners, error) {
	l := &Listeners{Port: port}
	if err := l.open(familyIPv4); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on 127.0.0.1:%d: %w", port, err)
	}
	if !haveIPv6() {
		return l, nil
	}
	if err := l.open(familyIPv6); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on [::1]:%d: %w", port, err)
	}
	return l, nil
}

// haveIPv6 tells whether ::1 is there: IPv6 can be off in the kernel or in this namespace.
func haveIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}) == nil
}

// open opens the four sockets of a family. The two of UDP share the port by
// SO_REUSEADDR, which is taken off again: left on, any process could bind beside us.
// TCP knows no such way; there it is SO_REUSEPORT, which asks for the same UID.
func (l *Listeners) open(family int) error {
	loopback, err := l.socket(family, false, false, 0)
	if err != nil {
		return err
	}
	if _, err := l.socket(family, true, false, unix.SO_REUSEPORT); err != nil {
		return err
	}
	if family == familyIPv6 {
		if err := addTagRoute(l.Port); err != nil {
			return nil //nolint:nilerr // no tags for IPv6 then; the scope's flags say so
		}
	}
	if err := setInt(loopback, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	tags, err := l.socket(family, false, true, unix.SO_REUSEADDR)
	if err != nil {
		return err
	}
	if _, err := l.socket(family, true, true, unix.SO_REUSEPORT); err != nil {
		return err
	}
	return errors.Join(
		setInt(loopback, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0),
		setInt(tags, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0))
}

func (l *Listeners) socket(family int, stream, tags bool, share int) (*socket, error) {
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
	s := &socket{file: os.NewFile(uintptr(fd), "listener"), fd: fd, stream: stream, family: family, tags: tags}
	l.sockets = append(l.sockets, s)
	if err := s.prepare(share); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, s.address(l.Port)); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if !stream {
		return s, nil
	}
	return s, os.NewSyscallError("listen", unix.Listen(fd, unix.SOMAXCONN))
}

// prepare sets the options that must be there before bind.
func (s *socket) prepare(share int) error {
	var errs []error
	if share != 0 {
		errs = append(errs, setInt(s, unix.SOL_SOCKET, share, 1))
	}
	if s.stream {
		// Connections in TIME_WAIT must not keep a restarted resolver from its port.
		errs = append(errs, setInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	} else if setInt(s, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		errs = append(errs, setInt(s, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer))
	}
	if s.family == familyIPv6 {
		errs = append(errs, setInt(s, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	}
	if s.tags {
		// The kernel drops what comes from outside to 127.0.0.0/8 anyway, and the
		// wildcard of IPv6 would be reachable without this.
		errs = append(errs, os.NewSyscallError("bind to lo", unix.BindToDevice(s.fd, "lo")))
	}
	if s.tags && s.family == familyIPv6 {
		// To answer from an address that is only routed to this host.
		errs = append(errs, setInt(s, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1))
	}
	return errors.Join(errs...)
}

func (s *socket) address(port uint16) unix.Sockaddr {
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

// UDP returns the UDP sockets for use with package net. They are duplicates: closing
// them does not close the listeners, and as long as one lives, so does the scope.
func (l *Listeners) UDP() ([]*net.UDPConn, error) {
	var conns []*net.UDPConn
	for _, s := range l.sockets {
		if s.stream {
			continue
		}
		c, err := net.FilePacketConn(s.file)
		if err != nil {
			return nil, fmt.Errorf("use listener: %w", err)
		}
		conns = append(conns, c.(*net.UDPConn))
	}
	return conns, nil
}

// TCP is UDP for the TCP sockets.
func (l *Listeners) TCP() ([]*net.TCPListener, error) {
	var conns []*net.TCPListener
	for _, s := range l.sockets {
		if !s.stream {
			continue
		}
		c, err := net.FileListener(s.file)
		if err != nil {
			return nil, fmt.Errorf("use listener: %w", err)
		}
		conns = append(conns, c.(*net.TCPListener))
	}
	return conns, nil
}

// Close closes the sockets.
func (l *Listeners) Close() {
	for _, s := range l.sockets {
		_ = s.file.Close()
	}
	l.sockets = nil
}

// has tells whether a socket of that kind is among them.
func (l *Listeners) has(family int, tags bool) bool {
	for _, s := range l.sockets {
		if s.family == family && s.tags == tags {
			return true
		}
	}
	return false
}

// inheritListeners makes Listeners of the sockets of another process.
func inheritListeners(files []*os.File) (*Listeners, error) {
	l := &Listeners{}
	for _, f := range files {
		s, port, err := inspect(f)
		if err != nil {
			return nil, fmt.Errorf("inherit listener: %w", err)
		}
		l.Port = port
		l.sockets = append(l.sockets, s)
	}
	return l, nil
}

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
		return s, uint16(a.Port), nil
	case *unix.SockaddrInet6:
		s.family, s.tags = familyIPv6, a.Addr == [16]byte{}
		return s, uint16(a.Port), nil
	}
	return nil, 0, fmt.Errorf("inspect socket: unexpected family %T", name)
}

// tagRoute makes the tags of IPv6 local addresses of the loopback interface (AnyIP).
func tagRoute(port uint16) *netlink.Route {
	prefix := tagPrefix6(port)
	return &netlink.Route{
		Type:      unix.RTN_LOCAL,
		Table:     unix.RT_TABLE_LOCAL,
		LinkIndex: 1, // lo, in every namespace
		Dst:       &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 128)},
	}
}

func addTagRoute(port uint16) error {
	err := netlink.RouteAdd(tagRoute(port))
	if errors.Is(err, unix.EEXIST) { // left by one that was killed
		return nil
	}
	return err
}

// RemoveTagRoute removes what Listen added to the routes of the calling thread's
// namespace. Call it when the scope is gone for good, not between two resolvers.
func RemoveTagRoute(port uint16) error {
	err := netlink.RouteDel(tagRoute(port))
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("remove route to IPv6 tags: %w", err)
	}
	return nil
}
