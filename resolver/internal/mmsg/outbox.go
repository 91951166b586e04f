// SPDX-License-Identifier: Apache-2.0

package mmsg

import (
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// Outbox is datagrams that leave together: those of one socket with one system call. It
// is one goroutine's, and empty whenever that waits. An empty one holds no memory.
type Outbox struct {
	socket  *Socket // of all that is in it
	letters *letters
	n, sent int
	errno   unix.Errno
	// The closure is made once: it would be allocated with each call.
	writable func(fd uintptr) bool
}

// letters is the memory of an Outbox.
type letters struct {
	headers [Size]header
	slots   [Size]letter
}

// letter is the memory of one datagram.
type letter struct {
	to      Peer
	control [controlSize]byte
	iov     unix.Iovec
	wire    []byte
}

var spare = sync.Pool{New: func() any {
	l := new(letters)
	octets := make([]byte, Size*usual)
	for i := range l.slots {
		l.slots[i].wire = octets[i*usual : i*usual : (i+1)*usual]
	}
	return l
}}

// usual is the size of a datagram for which memory is there before it is needed.
const usual = 512

// Buffer is empty memory to build the next datagram in, by appending.
func (o *Outbox) Buffer() []byte {
	if o.letters == nil {
		o.letters = spare.Get().(*letters)
	}
	return o.letters.slots[o.n].wire[:0]
}

// Reply adds a datagram from a local address to whom one came from. The outbox keeps wire,
// for which Buffer was used, and does not send the first skip octets of it.
func (o *Outbox) Reply(s *Socket, wire []byte, skip int, local netip.Addr, to *Peer) {
	l, msg := o.add(s, wire, skip)
	l.to = *to
	msg.Name, msg.Namelen = &l.to.name[0], to.size
	if !s.bound.IsValid() {
		from := s.AppendSource(l.control[:0], local)
		msg.Control = &from[0]
		msg.SetControllen(len(from))
	}
	o.added()
}

// Send adds a datagram of a connected socket. The outbox keeps wire, for which Buffer was
// used.
func (o *Outbox) Send(s *Socket, wire []byte) {
	o.add(s, wire, 0)
	o.added()
}

func (o *Outbox) add(s *Socket, wire []byte, skip int) (*letter, *unix.Msghdr) {
	if o.socket != s {
		built := o.n
		o.send()
		o.socket = s
		slots := &o.letters.slots
		slots[0].wire, slots[built].wire = slots[built].wire, slots[0].wire
	}
	l := &o.letters.slots[o.n]
	l.wire = wire
	l.iov.Base = &wire[skip]
	l.iov.SetLen(len(wire) - skip)
	msg := &o.letters.headers[o.n].msg
	*msg = unix.Msghdr{Iov: &l.iov}
	msg.SetIovlen(1)
	return l, msg
}

func (o *Outbox) added() {
	if o.n++; o.n == Size {
		o.send()
	}
}

// Flush sends what was added. A datagram that the kernel does not take is lost, as
// datagrams are, and told to its socket; the others go.
func (o *Outbox) Flush() {
	if o.letters == nil {
		return
	}
	o.send()
	spare.Put(o.letters)
	o.letters, o.socket = nil, nil
}

func (o *Outbox) send() {
	if o.writable == nil {
		o.writable = o.write
	}
	for o.sent = 0; o.sent < o.n; {
		if err := o.socket.raw.Write(o.writable); err != nil {
			o.socket.lost(err)
			break
		}
		if o.errno != 0 && o.errno != unix.EINTR {
			o.socket.lost(o.errno)
			o.sent++ // the error is the first one's
		}
	}
	o.n = 0
}

func (o *Outbox) write(fd uintptr) bool {
	if h := &o.letters.headers[o.sent]; o.n-o.sent == 1 && h.msg.Control == nil {
		if o.errno = sendto(fd, h); o.errno == 0 {
			o.sent++
		}
		return o.errno != unix.EAGAIN
	}
	var n int
	if n, o.errno = sendmmsg(fd, o.letters.headers[o.sent:o.n]); o.errno == 0 {
		o.sent += n
	}
	return o.errno != unix.EAGAIN
}
