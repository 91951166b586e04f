// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// A connected UDP socket hears its peer alone, and connecting it again makes it deaf to
// the answer that the old peer is about to send. So, beside each socket that is moved,
// a second one is bound to the same local address for a while. It hears whatever the
// first does not; what comes from the old peer is sent again, as from the new one.
//
// Why not wait until no answer is due: the kernel does not know, and an application
// that always has a question open would never be moved. All of this is best effort:
// where it cannot be done, an answer is lost as any datagram may be.

// latecomer is such a second socket.
type latecomer struct {
	socket   *connectedSocket
	fd       int
	old      netip.AddrPort // the peer before the move
	inject   int            // a raw socket in the same namespace, of the same family
	from, to netip.AddrPort // as which, and to where, late answers are sent again
}

// latecomers are those of one move.
type latecomers struct {
	all []*latecomer
}

// await opens a latecomer for a socket that is about to be moved; the thread is in the
// socket's namespace. restore takes back what the socket must bear meanwhile.
func (l *latecomers) await(s *connectedSocket) (restore func()) {
	nothing := func() {}
	if s.local.Addr().IsUnspecified() {
		return nothing
	}
	family := unix.AF_INET6
	if s.local.Addr().Is4() {
		family = unix.AF_INET
	}
	inject, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nothing
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		_ = unix.Close(inject)
		return nothing
	}
	// Two UDP sockets may have one address if both say so, at the moment of bind.
	before, _ := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	restore = func() { _ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, before) }
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(fd, sockaddr(s.local)); err != nil {
		_ = unix.Close(inject)
		_ = unix.Close(fd)
		return restore
	}
	l.all = append(l.all, &latecomer{socket: s, fd: fd, old: s.remote, inject: inject})
	return restore
}

// readdress learns from the tables where the moved sockets are now, as packets see it:
// what getsockname and getpeername tell has gone through the datapath.
func (l *latecomers) readdress(table []procSocket) {
	now := make(map[uint64]procSocket)
	for _, s := range table {
		now[s.inode] = s
	}
	for _, c := range l.all {
		if s, ok := now[c.socket.inode]; ok {
			c.from, c.to = s.remote, s.local
		}
	}
}

// pass sends late answers on for as long as it is told, and closes the latecomers.
func (l *latecomers) pass(wait time.Duration) {
	defer l.close()
	deadline := time.Now().Add(wait)
	poll := make([]unix.PollFd, len(l.all))
	for i, c := range l.all {
		poll[i] = unix.PollFd{Fd: int32(c.fd), Events: unix.POLLIN}
	}
	for left := wait; left > 0 && len(poll) > 0; left = time.Until(deadline) {
		if _, err := unix.Poll(poll, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
			return
		}
		for i, c := range l.all {
			if poll[i].Revents != 0 {
				c.passOne()
			}
		}
	}
}

func (c *latecomer) passOne() {
	buffer := make([]byte, 1<<16)
	n, source, err := unix.Recvfrom(c.fd, buffer, 0)
	if err != nil || !c.from.IsValid() || c.from == c.old {
		return
	}
	// If we are in the cgroup ourselves, the hook shows tags as their nameserver.
	if shown := addrPort(source); shown != c.old && shown != c.from {
		return
	}
	_ = unix.Sendto(c.inject, datagram(c.from, c.to, buffer[:n]), 0, rawSockaddr(c.to.Addr()))
}

// close is for what was not closed by pass.
func (l *latecomers) close() {
	for _, c := range l.all {
		_ = unix.Close(c.fd)
		_ = unix.Close(c.inject)
	}
	l.all = nil
}

// rawSockaddr is the destination for a raw socket, to which ports mean nothing.
func rawSockaddr(a netip.Addr) unix.Sockaddr { return sockaddr(netip.AddrPortFrom(a, 0)) }

// datagram makes a whole packet: IP, UDP, payload. The kernel completes the length and
// checksum of an IPv4 header.
func datagram(from, to netip.AddrPort, payload []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	source, destination := from.Addr().AsSlice(), to.Addr().AsSlice()
	binary.BigEndian.PutUint16(udp[6:], checksum(source, destination, udp))
	const hops = 64
	var ip []byte
	if from.Addr().Is4() {
		ip = append(ip, 0x45, 0, 0, 0, 0, 0, 0, 0, hops, unix.IPPROTO_UDP, 0, 0)
	} else {
		ip = append(ip, 0x60, 0, 0, 0)
		ip = binary.BigEndian.AppendUint16(ip, uint16(len(udp)))
		ip = append(ip, unix.IPPROTO_UDP, hops)
	}
	return append(append(append(ip, source...), destination...), udp...)
}

// checksum is that of UDP over its pseudo-header (RFC 768, RFC 8200 section 8.1).
func checksum(source, destination, udp []byte) uint16 {
	sum := uint32(unix.IPPROTO_UDP) + uint32(len(udp))
	for _, part := range [][]byte{source, destination, udp} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
		if len(part)%2 == 1 {
			sum += uint32(part[len(part)-1]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff { // its complement, zero, would mean that there is none
		return 0xffff
	}
	return ^uint16(sum)
}
