// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Listeners are the sockets of one scope: for UDP and TCP, on the loopback address
// and, for tags, on a wildcard address bound to the loopback interface; for IPv4 and,
// where the namespace has it, IPv6. Close them.
type Listeners struct {
	Port    uint16
	sockets []*socket
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

// open opens the four sockets of a family: loopback and tags, UDP and TCP. Those of one
// protocol share a port, which the kernel allows while both have the same owner and
// SO_REUSEPORT. For as long as that is set the owner is one that no process has, and
// then it is taken off: were it left on, others could bind beside us and would be given
// a part of the queries. SO_REUSEADDR in its place would let in anybody meanwhile.
func (l *Listeners) open(family int) error {
	owner := privateOwner()
	// Not shared at first: this is the lock.
	udp, err := l.add(family, false, false, noOwner)
	if err != nil {
		return err
	}
	tcp, err := l.add(family, true, false, owner)
	if err != nil {
		return err
	}
	if family == familyIPv6 {
		if err := addTagRoute(l.Port); err != nil {
			return tcp.unshare() // no tags for IPv6 then; the scope's flags say so
		}
	}
	if err := udp.share(owner); err != nil {
		return err
	}
	shared := []*socket{udp, tcp}
	for _, stream := range []bool{false, true} {
		s, err := l.add(family, stream, true, owner)
		if err != nil {
			return err
		}
		shared = append(shared, s)
	}
	var errs []error
	for _, s := range shared {
		errs = append(errs, s.unshare())
	}
	return errors.Join(errs...)
}

const noOwner = -1

// privateOwner is a UID that no process has. It is above those of all user namespaces
// in practice, and another one each time.
func privateOwner() int { return 1<<31 - 1 - rand.IntN(1<<20) }

// add opens and binds a socket, shared with those of owner.
func (l *Listeners) add(family int, stream, tags bool, owner int) (*socket, error) {
	s, err := openSocket(family, stream, tags)
	if err != nil {
		return nil, err
	}
	l.sockets = append(l.sockets, s)
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if owner != noOwner {
		if err := s.share(owner); err != nil {
			return nil, err
		}
	}
	return s, s.bind(l.Port)
}

// Addresses returns where they listen, for UDP and TCP alike. A wildcard address is that
// of tags, on the loopback interface alone.
func (l *Listeners) Addresses() []netip.AddrPort {
	var list []netip.AddrPort
	for _, s := range l.sockets {
		if !s.stream && !s.seal {
			list = append(list, addrPort(s.address(l.Port)))
		}
	}
	return list
}

// UDP returns the UDP sockets for use with package net. They are duplicates: closing
// them does not close the listeners, and as long as one lives, so does the scope.
func (l *Listeners) UDP() ([]*net.UDPConn, error) {
	var conns []*net.UDPConn
	for _, s := range l.sockets {
		if s.stream || s.seal {
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

// Files returns the sockets, to be passed to another process: see Heart.Adopt. They stay
// the Listeners'.
func (l *Listeners) Files() []*os.File {
	var files []*os.File
	for _, s := range l.sockets {
		files = append(files, s.file)
	}
	return files
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
