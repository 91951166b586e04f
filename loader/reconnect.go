// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// connectAgain connects a socket to the peer that it has. The hook does the rest.
func connectAgain(fd int) (bool, error) {
	peer, err := unix.Getpeername(fd)
	if errors.Is(err, unix.ENOTCONN) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("getpeername", err)
	}
	return true, os.NewSyscallError("connect", unix.Connect(fd, peer))
}

// connectBack connects a socket to the nameserver that getpeername shows, which the
// datapath's hook puts there. A socket that shows the target addressed it on purpose.
func connectBack(fd int) (bool, error) {
	peer, err := unix.Getpeername(fd)
	if errors.Is(err, unix.ENOTCONN) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("getpeername", err)
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return false, os.NewSyscallError("getsockname", err)
	}
	if addrPort(peer).Port() != 53 {
		return false, nil
	}
	if isLoopback(local) && !isLoopback(peer) {
		// A loopback source leads nowhere but to loopback. Disconnecting forgets it, and
		// the port with it, which we ask for again; if somebody was faster the kernel
		// gives another. A port that the application bound stays, and bind is refused.
		if err := disconnect(fd); err != nil {
			return false, err
		}
		_ = unix.Bind(fd, wildcard(local))
	}
	return true, os.NewSyscallError("connect", unix.Connect(fd, peer))
}

func disconnect(fd int) error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return os.NewSyscallError("disconnect", errno)
	}
	return nil
}

// addrPort is the address in a form that compares, a v4-mapped one as IPv4.
func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch a := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// sockaddr is the inverse, for a socket of the address's own family.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func isLoopback(s unix.Sockaddr) bool { return addrPort(s).Addr().IsLoopback() }

// wildcard is the unspecified address of the same family and port.
func wildcard(s unix.Sockaddr) unix.Sockaddr {
	if a, ok := s.(*unix.SockaddrInet4); ok {
		return &unix.SockaddrInet4{Port: a.Port}
	}
	return &unix.SockaddrInet6{Port: int(addrPort(s).Port())}
}
