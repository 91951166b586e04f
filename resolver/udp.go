// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// udpSocket reads datagrams with the address at which they arrived and answers
// from that address.
type udpSocket struct {
	conn *net.UDPConn
	// v6 sockets speak of IPv4 addresses in their mapped form, both ways.
	v6 bool
}

func newUDPSocket(conn *net.UDPConn) (*udpSocket, error) {
	u := &udpSocket{conn: conn}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("set up %s: %w", conn.LocalAddr(), err)
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		optErr = u.enable(int(fd))
		growBuffer(int(fd))
	}); err != nil {
		return nil, fmt.Errorf("set up %s: %w", conn.LocalAddr(), err)
	}
	if optErr != nil {
		return nil, fmt.Errorf("ask for packet information on %s: %w", conn.LocalAddr(), optErr)
	}
	return u, nil
}

// growBuffer makes the receive buffer large, and never smaller: whoever opened the
// socket may have had the privilege to go beyond net.core.rmem_max, and we may not.
// A smaller buffer loses bursts but serves.
func growBuffer(fd int) {
	have, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF) // twice what was set
	if err != nil || have >= 2*receiveBuffer || unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) == nil {
		return
	}
	probe, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(probe)
	_ = unix.SetsockoptInt(probe, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	allowed, _ := unix.GetsockoptInt(probe, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if have < allowed {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
}

func (u *udpSocket) enable(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if u.v6 = domain == unix.AF_INET6; u.v6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// localOf finds the destination address of a datagram among its control messages.
func localOf(oob []byte) netip.Addr {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return netip.Addr{}
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[8:12])) // ipi_addr: the header's destination
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(data[:16])).Unmap()
		}
		oob = rest
	}
	return netip.Addr{}
}

// source is a control message that sends from an address. It may be set again and
// again.
type source []byte

func (u *udpSocket) newSource() source {
	if u.v6 {
		return unix.PktInfo6(&unix.Inet6Pktinfo{})
	}
	return unix.PktInfo4(&unix.Inet4Pktinfo{})
}

// set puts in the address: ipi6_addr begins its structure, ipi_spec_dst comes behind
// the interface.
func (s source) set(u *udpSocket, local netip.Addr) source {
	data := s[unix.CmsgLen(0):]
	if u.v6 {
		addr := local.As16()
		copy(data, addr[:])
		return s
	}
	addr := local.As4()
	copy(data[4:], addr[:])
	return s
}

// serveUDP reads until v.reading ends.
func (v *serving) serveUDP(u *udpSocket) error {
	l := v.newUDPLoop(u)
	for {
		err := l.next()
		if err == nil || isPassing(err) {
			continue
		}
		if v.reading.Err() != nil && (errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed)) {
			return nil
		}
		return fmt.Errorf("read from %s: %w", u.conn.LocalAddr(), err)
	}
}

// udpLoop is what the loop of one socket uses again and again.
type udpLoop struct {
	*serving
	socket   *udpSocket
	buf, oob []byte
	path     *wirePath
	from     source
}

func (v *serving) newUDPLoop(u *udpSocket) *udpLoop {
	return &udpLoop{serving: v, socket: u, buf: make([]byte, maxWire), oob: make([]byte, 128), path: v.newWirePath(), from: u.newSource()}
}

// next reads one datagram. What needs neither a message nor a goroutine is answered
// between reading and a turn: the ping, and what is ready.
func (l *udpLoop) next() error {
	n, oobn, _, client, err := l.socket.conn.ReadMsgUDPAddrPort(l.buf, l.oob)
	if err != nil {
		return err
	}
	wire, local := l.buf[:n], localOf(l.oob[:oobn])
	if !local.IsValid() || !l.isServed(local) {
		return nil
	}
	if pong := pong(wire); pong != nil {
		l.send(l.socket, pong, l.from.set(l.socket, local), client)
		return nil
	}
	if reply := l.path.answer(wire, local, false); reply != nil {
		l.send(l.socket, reply[2:], l.from.set(l.socket, local), client)
		return nil
	}
	l.spawnUDP(l.socket, packet{wire: append([]byte(nil), wire...), client: client, local: local})
	return nil
}

// spawnUDP waits for a turn and answers in a goroutine.
func (v *serving) spawnUDP(u *udpSocket, in packet) {
	v.turns <- struct{}{}
	v.queries.Go(func() {
		defer func() { <-v.turns }()
		_ = v.answer(v.work, in, func(wire []byte) error {
			v.send(u, wire, u.newSource().set(u, in.local), in.client)
			return nil
		})
	})
}

// send is where UDP answers leave. One that the kernel does not take is lost, as
// datagrams are.
func (v *serving) send(u *udpSocket, wire []byte, from source, client netip.AddrPort) {
	if _, _, err := u.conn.WriteMsgUDPAddrPort(wire, from, client); err != nil {
		v.cfg.Logger.Debug("answer not sent", "client", client, "listener", u.conn.LocalAddr(), "err", err)
	}
}

// isPassing reports errors that say nothing about the socket itself: an ICMP
// message about an earlier answer, or a moment without memory.
func isPassing(err error) bool {
	for _, errno := range []syscall.Errno{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENOBUFS, unix.ENOMEM, unix.EAGAIN, unix.EINTR} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
