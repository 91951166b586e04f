// SPDX-License-Identifier: Apache-2.0

package mmsg

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// Size is how many datagrams one system call moves. Half of them save most of
	// what there is to save.
	Size = 32
	// maxDatagram is more than UDP can carry: nothing is cut off.
	maxDatagram = 1 << 16
	// stride keeps the beginnings of the datagrams, which are all that most of them
	// have, from sharing the lines of the processor's cache.
	stride = maxDatagram + 5*64
	// controlSize holds the packet information of both families, and what an opener
	// of the socket may have asked for besides.
	controlSize = 128
)

// Batch is the datagrams that one call has read, and the replies to them. It belongs
// to the Socket that returned it, until the next Read.
type Batch struct {
	socket  *Socket
	in, out [Size]header
	slots   [Size]slot
	data    []byte // of all datagrams, see mapped
	n       int
	replies int
}

// slot is the memory of one datagram and of its reply.
type slot struct {
	name    [unix.SizeofSockaddrInet6]byte
	control [controlSize]byte
	from    [controlSize]byte // the reply's
	local   netip.Addr
	reply   []byte
	in, out unix.Iovec
}

var pool = sync.Pool{New: func() any { return newBatch() }}

func newBatch() *Batch {
	b := &Batch{data: mapped(Size * stride)}
	if b.data == nil {
		b.data = make([]byte, Size*stride)
	} else {
		runtime.AddCleanup(b, func(data []byte) { _ = unix.Munmap(data) }, b.data)
	}
	for i := range b.slots {
		s := &b.slots[i]
		s.in = unix.Iovec{Base: &b.data[i*stride]}
		s.in.SetLen(maxDatagram)
		s.reply = make([]byte, 0, 512)
		b.in[i].msg = unix.Msghdr{Name: &s.name[0], Iov: &s.in, Control: &s.control[0]}
		b.in[i].msg.SetIovlen(1)
		b.in[i].msg.Namelen = unix.SizeofSockaddrInet6
		b.in[i].msg.SetControllen(controlSize)
	}
	return b
}

// mapped is memory that costs what is filled of it: a page of each slot as a rule, where
// the largest datagram has sixteen. As memory of Go's it would be cleared now and then,
// and count as used in the time between two collections. Nil if there is none.
func mapped(size int) []byte {
	data, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil
	}
	_ = unix.Madvise(data, unix.MADV_NOHUGEPAGE) // which would fill it at once
	return data
}

// rewind makes the headers that the kernel has filled fit for the next call.
func (b *Batch) rewind() {
	for i := range b.n {
		b.in[i].msg.Namelen = unix.SizeofSockaddrInet6
		b.in[i].msg.SetControllen(controlSize)
	}
	b.n, b.replies = 0, 0
}

// Len is how many datagrams there are.
func (b *Batch) Len() int { return b.n }

// Datagram returns datagram i. It is good until the next Read.
func (b *Batch) Datagram(i int) []byte {
	return b.data[i*stride : i*stride+int(b.in[i].n)]
}

// Local is the address at which datagram i arrived, unmapped; the invalid address if
// the kernel did not say.
func (b *Batch) Local(i int) netip.Addr {
	local := b.socket.bound
	if !local.IsValid() {
		local = localOf(b.slots[i].control[:b.in[i].msg.Controllen])
	}
	b.slots[i].local = local
	return local
}

// Client is who sent datagram i, in the form that the socket speaks: IPv4 addresses
// are mapped on one of IPv6.
func (b *Batch) Client(i int) netip.AddrPort {
	name := &b.slots[i].name
	port := binary.BigEndian.Uint16(name[2:])
	if !b.socket.v6 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(name[4:8])), port)
	}
	addr := netip.AddrFrom16([16]byte(name[8:24]))
	if scope := binary.NativeEndian.Uint32(name[24:]); scope != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(scope), 10))
	}
	return netip.AddrPortFrom(addr, port)
}

// Buffer is empty memory to build the reply to datagram i in, by appending.
func (b *Batch) Buffer(i int) []byte { return b.slots[i].reply[:0] }

// Reply queues a reply to datagram i, of which Local was asked, to leave from that
// address with the next Flush. The batch keeps wire; the first skip octets of it, which
// Buffer was used with, are not sent.
func (b *Batch) Reply(i int, wire []byte, skip int) {
	s := &b.slots[i]
	s.reply = wire
	s.out.Base = &wire[skip]
	s.out.SetLen(len(wire) - skip)
	msg := &b.out[b.replies].msg
	*msg = unix.Msghdr{Name: &s.name[0], Namelen: b.in[i].msg.Namelen, Iov: &s.out}
	msg.SetIovlen(1)
	if !b.socket.bound.IsValid() {
		from := b.socket.AppendSource(s.from[:0], s.local)
		msg.Control = &from[0]
		msg.SetControllen(len(from))
	}
	b.replies++
}
