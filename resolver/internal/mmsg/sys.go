// SPDX-License-Identifier: Apache-2.0

package mmsg

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// None of these calls waits, so the scheduler is not told of them: it would take a call for 32
// datagrams, a tenth of a millisecond, for one that waits, and give the processor to
// another thread meanwhile, which costs more than telling saves.

// header is struct mmsghdr. What it points at is kept alive by the batch that both
// belong to: the pointers have types, so the collector sees them.
type header struct {
	msg unix.Msghdr
	n   uint32 // octets of the datagram
}

// recvmmsg fills the headers and returns how many; it does not wait.
func recvmmsg(fd uintptr, headers []header) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(headers))), uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// recvfrom fills one header but for its control messages; it does not wait. For one datagram
// it takes a microsecond less than recvmmsg.
func recvfrom(fd uintptr, h *header) unix.Errno {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(h.msg.Iov.Base)), uintptr(h.msg.Iov.Len),
		unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(h.msg.Name)), uintptr(unsafe.Pointer(&h.msg.Namelen)))
	h.n = uint32(n)
	return errno
}

// sendto sends the datagram of one header, which has no control messages.
func sendto(fd uintptr, h *header) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(h.msg.Iov.Base)), uintptr(h.msg.Iov.Len),
		unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(h.msg.Name)), uintptr(h.msg.Namelen))
	return errno
}

// sendmmsg sends the datagrams of the headers and returns how many went; an error is
// about the first one.
func sendmmsg(fd uintptr, headers []header) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(headers))), uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}
