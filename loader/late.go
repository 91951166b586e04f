// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A connected UDP socket hears its peer alone, and connecting it again makes it deaf to
// the answer that the old peer is about to send. So, beside each socket that is moved,
// a second one is bound to the same local address for a while. It hears whatever the
// first does not; what comes from the old peer is sent again, as from the new one. That
// needs CAP_NET_RAW.
//
// Why not wait until no answer is due: the kernel does not know, and an application
// that always has a question open would never be moved. All of this is best effort:
// where it cannot be done, an answer is lost as any datagram may be.

// latePatience is for how long late answers are passed on: as long as resolv.conf's
// default has an application wait for them. Nobody waits for us meanwhile.
const latePatience = 5 * time.Second

// latecomer is such a second socket.
type latecomer struct {
	inode    uint64         // of the socket that is moved
	file     *os.File       // the second one
	inject   int            // a raw socket in the same namespace, of the same family
	old      netip.AddrPort // the peer before the move
	from, to netip.AddrPort // as which, and to where, late answers are sent again
}

// listenLate opens a latecomer for a socket that is about to be moved, or none; the thread
// is in the socket's namespace. restore takes back what the socket must bear meanwhile.
func listenLate(s *connectedSocket) (c *latecomer, restore func()) {
	restore = func() {}
	if s.local.Addr().IsUnspecified() {
		return nil, restore
	}
	family := unix.AF_INET6
	if s.local.Addr().Is4() {
		family = unix.AF_INET
	}
	inject, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, restore
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		_ = unix.Close(inject)
		return nil, restore
	}
	// Two UDP sockets may have one address if both say so, at the moment of bind.
	before, _ := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	restore = func() { _ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, before) }
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(fd, sockaddr(s.local)); err != nil {
		_ = unix.Close(inject)
		_ = unix.Close(fd)
		return nil, restore
	}
	return &latecomer{inode: s.inode, file: os.NewFile(uintptr(fd), "latecomer"), inject: inject, old: s.remote}, restore
}

// pass sends late answers on until file is closed, or its deadline has come.
func (c *latecomer) pass() {
	raw, err := c.file.SyscallConn()
	for err == nil {
		err = raw.Read(func(fd uintptr) bool { return c.passOne(int(fd)) })
	}
}

// passOne is false if there is nothing to pass.
func (c *latecomer) passOne(fd int) bool {
	buffer := make([]byte, 1<<16)
	n, source, err := unix.Recvfrom(fd, buffer, 0)
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	// If we are in the cgroup ourselves, the hook shows tags as their nameserver.
	if err == nil && (addrPort(source) == c.old || addrPort(source) == c.from) {
		_ = unix.Sendto(c.inject, datagram(c.from, c.to, buffer[:n]), 0, rawSockaddr(c.to.Addr()))
	}
	return true
}

func (c *latecomer) close() {
	_ = c.file.Close()
	_ = unix.Close(c.inject)
}

// latecomers are those of all moves whose time is not over. The zero value has none.
type latecomers struct {
	passing sync.WaitGroup

	mu  sync.Mutex // guards all
	all map[*latecomer]bool
}

// welcome has those of one move pass answers on from now. The table tells where the moved
// sockets are, as packets see it: what getsockname and getpeername tell has gone through
// the datapath.
func (l *latecomers) welcome(list []*latecomer, table []procSocket) {
	now := make(map[uint64]procSocket)
	for _, s := range table {
		now[s.inode] = s
	}
	deadline := time.Now().Add(latePatience)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range list {
		s, ok := now[c.inode]
		if !ok || s.remote == c.old || c.file.SetReadDeadline(deadline) != nil {
			c.close() // closed meanwhile, or where it was
			continue
		}
		c.from, c.to = s.remote, s.local
		if l.all == nil {
			l.all = make(map[*latecomer]bool)
		}
		l.all[c] = true
		l.passing.Go(func() {
			c.pass()
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.all, c)
			c.close()
		})
	}
}

// close ends them before their time.
func (l *latecomers) close() {
	l.mu.Lock()
	for c := range l.all {
		_ = c.file.SetReadDeadline(time.Now())
	}
	l.mu.Unlock()
	l.passing.Wait()
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
