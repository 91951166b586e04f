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

// Batch is the datagrams that one call has read. It belongs to the Socket that returned
// it, until the next Read.
type Batch struct {
	socket  *Socket
	headers [Size]header
	slots   [Size]slot
	data    []byte // of all datagrams, see mapped
	n       int
	named   bool // the kernel says who has sent each
}

// slot is the memory of one datagram, but for its octets.
type slot struct {
	from    Peer
	control [controlSize]byte
	iov     unix.Iovec
}

// Peer is who is at the other end of a datagram, as the kernel has it.
type Peer struct {
	name [unix.SizeofSockaddrInet6]byte
	size uint32
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
		s.iov = unix.Iovec{Base: &b.data[i*stride]}
		s.iov.SetLen(maxDatagram)
		b.headers[i].msg = unix.Msghdr{Iov: &s.iov, Control: &s.control[0]}
		b.headers[i].msg.SetIovlen(1)
		b.headers[i].msg.SetControllen(controlSize)
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

// lend gives the batch to a socket.
func (b *Batch) lend(s *Socket) {
	b.socket = s
	if b.named == !s.connected {
		return
	}
	b.named = !s.connected
	for i := range b.headers {
		msg := &b.headers[i].msg
		if msg.Name, msg.Namelen = nil, 0; b.named {
			msg.Name, msg.Namelen = &b.slots[i].from.name[0], unix.SizeofSockaddrInet6
		}
	}
}

// rewind makes the headers that the kernel has filled fit for the next call.
func (b *Batch) rewind() {
	for i := range b.n {
		if b.named {
			b.headers[i].msg.Namelen = unix.SizeofSockaddrInet6
		}
		b.headers[i].msg.SetControllen(controlSize)
	}
	b.n = 0
}

// Len is how many datagrams there are.
func (b *Batch) Len() int { return b.n }

// Datagram returns datagram i. It is good until the next Read.
func (b *Batch) Datagram(i int) []byte {
	return b.data[i*stride : i*stride+int(b.headers[i].n)]
}

// Local is the address at which datagram i arrived, unmapped; the invalid address if
// the kernel did not say.
func (b *Batch) Local(i int) netip.Addr {
	if b.socket.bound.IsValid() {
		return b.socket.bound
	}
	return localOf(b.slots[i].control[:b.headers[i].msg.Controllen])
}

// From is who sent datagram i, which a connected socket does not tell. It is good until the
// next Read.
func (b *Batch) From(i int) *Peer {
	from := &b.slots[i].from
	from.size = b.headers[i].msg.Namelen
	return from
}

// Client is who sent datagram i, in the form that the socket speaks: IPv4 addresses
// are mapped on one of IPv6. A connected socket does not tell.
func (b *Batch) Client(i int) netip.AddrPort {
	name := &b.slots[i].from.name
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
