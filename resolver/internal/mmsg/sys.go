// SPDX-License-Identifier: Apache-2.0

package mmsg

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Neither call waits, so the scheduler is not told of them: it would take a call for 32
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

// sendmmsg sends the datagrams of the headers and returns how many went; an error is
// about the first one.
func sendmmsg(fd uintptr, headers []header) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(headers))), uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}
