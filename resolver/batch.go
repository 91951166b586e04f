// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many datagrams one system call moves. Under load, half of them
// save most of what there is to save; buffers beyond the first page of each cost no
// memory until somebody sends that much.
const batchSize = 16

// batch reads and writes datagrams of one socket, many at a time: recvmmsg(2) and
// sendmmsg(2), for which the system packages have no call without allocations.
type batch struct {
	raw      syscall.RawConn
	v6       bool
	in, out  [batchSize]mmsghdr
	slots    [batchSize]slot
	received int
	pending  int // replies in out
	sent     int
	errno    syscall.Errno

	// The closures are made once: they would be allocated with each call.
	readable, writable func(fd uintptr) bool
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// slot is the memory of one datagram and of its reply.
type slot struct {
	data    []byte
	reply   []byte
	name    [unix.SizeofSockaddrInet6]byte
	control [controlSize]byte
	from    source
	in, out unix.Iovec
}

// controlSize holds packet information of both families, and what a caller may have
// asked the socket for besides.
const controlSize = 128

func newBatch(raw syscall.RawConn, u *udpSocket) *batch {
	b := &batch{raw: raw, v6: u.v6}
	for i := range b.slots {
		s := &b.slots[i]
		s.data, s.from = make([]byte, maxWire), u.newSource()
		s.in = unix.Iovec{Base: &s.data[0]}
		s.in.SetLen(len(s.data))
		b.in[i].hdr = unix.Msghdr{Name: &s.name[0], Iov: &s.in, Control: &s.control[0]}
		b.in[i].hdr.SetIovlen(1)
	}
	b.readable = func(fd uintptr) bool {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
		b.received, b.errno = int(n), errno
		return errno != unix.EAGAIN
	}
	b.writable = func(fd uintptr) bool {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[b.sent])), uintptr(b.pending-b.sent), unix.MSG_DONTWAIT, 0, 0)
		if b.errno = errno; errno == 0 {
			b.sent += int(n)
		}
		return errno != unix.EAGAIN
	}
	return b
}

// read waits for datagrams and returns how many have come.
func (b *batch) read() (int, error) {
	for i := range b.in {
		b.in[i].hdr.Namelen = unix.SizeofSockaddrInet6
		b.in[i].hdr.SetControllen(controlSize)
	}
	if err := b.raw.Read(b.readable); err != nil {
		return 0, err
	}
	if b.errno != 0 {
		return 0, b.errno
	}
	return b.received, nil
}

// wire is datagram i.
func (b *batch) wire(i int) []byte { return b.slots[i].data[:b.in[i].n] }

// local is the address at which datagram i arrived.
func (b *batch) local(i int) netip.Addr {
	return localOf(b.slots[i].control[:b.in[i].hdr.Controllen])
}

// client is who sent datagram i, in the form that the socket speaks.
func (b *batch) client(i int) netip.AddrPort {
	name := &b.slots[i].name
	port := binary.BigEndian.Uint16(name[2:])
	if !b.v6 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(name[4:8])), port)
	}
	addr := netip.AddrFrom16([16]byte(name[8:24]))
	if scope := binary.NativeEndian.Uint32(name[24:]); scope != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(scope), 10))
	}
	return netip.AddrPortFrom(addr, port)
}

// answer puts a reply to datagram i behind the others. It keeps reply until flush.
func (b *batch) answer(u *udpSocket, i int, reply []byte, local netip.Addr) {
	s := &b.slots[i]
	s.out = unix.Iovec{Base: &reply[0]}
	s.out.SetLen(len(reply))
	hdr := &b.out[b.pending].hdr
	s.from.set(u, local)
	*hdr = unix.Msghdr{Name: &s.name[0], Namelen: b.in[i].hdr.Namelen, Iov: &s.out, Control: &s.from[0]}
	hdr.SetIovlen(1)
	hdr.SetControllen(len(s.from))
	b.pending++
}

// flush sends the replies. One that the kernel does not take is lost, as datagrams
// are, and given to lost.
func (b *batch) flush(lost func(error)) {
	for b.sent = 0; b.sent < b.pending; {
		if err := b.raw.Write(b.writable); err != nil {
			lost(err)
			break
		}
		if b.errno != 0 && b.errno != unix.EINTR {
			lost(b.errno)
			b.sent++ // the error is the first one's
		}
	}
	b.pending = 0
}
