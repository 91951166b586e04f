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
	if err := raw.Control(func(fd uintptr) { optErr = u.enable(int(fd)) }); err != nil {
		return nil, fmt.Errorf("set up %s: %w", conn.LocalAddr(), err)
	}
	if optErr != nil {
		return nil, fmt.Errorf("ask for packet information on %s: %w", conn.LocalAddr(), optErr)
	}
	// A smaller buffer loses bursts but serves.
	_ = conn.SetReadBuffer(receiveBuffer)
	return u, nil
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
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(m.Data[8:12])) // ipi_addr: the header's destination
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(m.Data[:16])).Unmap()
		}
	}
	return netip.Addr{}
}

// sourceOOB is the control message that sends from an address.
func (u *udpSocket) sourceOOB(local netip.Addr) []byte {
	if u.v6 {
		return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: local.As16()})
	}
	return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.As4()})
}

// serveUDP reads until v.reading ends. Between reading and a turn is the place for
// answers that need neither a message nor a goroutine: the ping today.
func (v *serving) serveUDP(u *udpSocket) error {
	buf := make([]byte, maxWire)
	oob := make([]byte, 128)
	for {
		n, oobn, _, client, err := u.conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if v.reading.Err() != nil && (errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed)) {
				return nil
			}
			if isPassing(err) {
				continue
			}
			return fmt.Errorf("read from %s: %w", u.conn.LocalAddr(), err)
		}
		local := localOf(oob[:oobn])
		if !local.IsValid() || !v.isServed(local) {
			continue
		}
		if pong := pong(buf[:n]); pong != nil {
			v.send(u, pong, local, client)
			continue
		}
		v.spawnUDP(u, packet{wire: append([]byte(nil), buf[:n]...), client: client, local: local})
	}
}

// spawnUDP waits for a turn and answers in a goroutine.
func (v *serving) spawnUDP(u *udpSocket, in packet) {
	v.turns <- struct{}{}
	v.queries.Go(func() {
		defer func() { <-v.turns }()
		_ = v.answer(v.work, in, func(wire []byte) error {
			v.send(u, wire, in.local, in.client)
			return nil
		})
	})
}

// send is where UDP answers leave. One that the kernel does not take is lost, as
// datagrams are.
func (v *serving) send(u *udpSocket, wire []byte, local netip.Addr, client netip.AddrPort) {
	if _, _, err := u.conn.WriteMsgUDPAddrPort(wire, u.sourceOOB(local), client); err != nil {
		v.cfg.Logger.Debug("answer not sent", "client", client, "local", local, "err", err)
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
