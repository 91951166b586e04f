// SPDX-License-Identifier: Apache-2.0

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The echo server, the load and the upstream are the ends of what is measured: they use
// blocking calls on threads of their own, without Go's poller, as a program in C would.

// batchSize is how many datagrams one of their calls moves.
const batchSize = 64

// header is struct mmsghdr.
type header struct {
	msg unix.Msghdr
	n   uint32
}

// batch is the memory for one call.
type batch struct {
	headers [batchSize]header
	iovecs  [batchSize]unix.Iovec
	names   [batchSize][unix.SizeofSockaddrInet4]byte
	data    [batchSize][2048]byte
}

func newBatch(named bool) *batch {
	b := new(batch)
	for i := range b.headers {
		b.iovecs[i].Base = &b.data[i][0]
		b.headers[i].msg.Iov = &b.iovecs[i]
		b.headers[i].msg.SetIovlen(1)
		if named {
			b.headers[i].msg.Name = &b.names[i][0]
			b.headers[i].msg.Namelen = unix.SizeofSockaddrInet4
		}
	}
	return b
}

// receive waits for one datagram and takes what else is there, up to most.
func (b *batch) receive(fd, most int) (int, error) {
	for i := range most {
		b.iovecs[i].SetLen(len(b.data[i]))
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.headers[0])), uintptr(most), unix.MSG_WAITFORONE, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	}
}

// send sends the first n, each of its iovec's length.
func (b *batch) send(fd, n int) error {
	for at := 0; at < n; {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.headers[at])), uintptr(n-at), 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		at += int(sent)
	}
	return nil
}
