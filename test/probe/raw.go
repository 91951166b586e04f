// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net/netip"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls that package unix does not offer as they are wanted here.

func rawPointer(raw *unix.RawSockaddrAny) unsafe.Pointer { return unsafe.Pointer(raw) }

// recv is recvfrom without a name; unix.Recvfrom always asks for one.
func recv(fd int, buf []byte) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// disconnect is connect with AF_UNSPEC.
func disconnect(fd int) error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return errno
	}
	return nil
}

// mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	sent   uint32
	_      [4]byte
}

// sendMany sends message i to address i, all with one call.
func sendMany(fd int, family Family, to []netip.AddrPort, messages [][]byte) error {
	names := make([]unix.RawSockaddrAny, len(to))
	vectors := make([]unix.Iovec, len(to))
	batch := make([]mmsghdr, len(to))
	for i := range to {
		names[i], batch[i].header.Namelen = family.rawSockaddr(to[i])
		batch[i].header.Name = (*byte)(rawPointer(&names[i]))
		vectors[i].Base = &messages[i][0]
		vectors[i].SetLen(len(messages[i]))
		batch[i].header.Iov = &vectors[i]
		batch[i].header.SetIovlen(1)
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&batch[0])), uintptr(len(batch)), 0, 0, 0)
	runtime.KeepAlive(batch)
	if errno != 0 {
		return errno
	}
	if int(n) < len(batch) { // the error itself is kept for the socket's next call
		_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		return orShort(err)
	}
	return nil
}

// orShort stands for an error that the kernel did not keep.
func orShort(err error) error {
	if err != nil {
		return err
	}
	return unix.EMSGSIZE
}

// Credentials belong to a thread in the kernel's eyes. Those of package unix change
// every thread of the process, as POSIX wants it; these change the calling one.

func setThreadUID(real, effective, saved int) error {
	return threadCall(unix.SYS_SETRESUID, real, effective, saved)
}

func setThreadGID(real, effective, saved int) error {
	return threadCall(unix.SYS_SETRESGID, real, effective, saved)
}

func threadCall(number uintptr, a, b, c int) error {
	if _, _, errno := unix.RawSyscall(number, uintptr(a), uintptr(b), uintptr(c)); errno != 0 {
		return errno
	}
	return nil
}
