// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// sockaddr writes an address as a socket of the family does.
func (f Family) sockaddr(a netip.AddrPort) unix.Sockaddr {
	if f == V4 {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	zone := 0
	if device, err := net.InterfaceByName(a.Addr().Zone()); err == nil {
		zone = device.Index
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: uint32(zone)}
}

// addrPort reads what the kernel gave; anything but an internet address is invalid.
func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch a := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// rawSockaddr is sockaddr for calls that package unix does not wrap.
func (f Family) rawSockaddr(a netip.AddrPort) (raw unix.RawSockaddrAny, size uint32) {
	port := a.Port()<<8 | a.Port()>>8
	if f == V4 {
		in4 := (*unix.RawSockaddrInet4)(rawPointer(&raw))
		*in4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: a.Addr().As4()}
		return raw, unix.SizeofSockaddrInet4
	}
	in6 := (*unix.RawSockaddrInet6)(rawPointer(&raw))
	*in6 = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: a.Addr().As16()}
	return raw, unix.SizeofSockaddrInet6
}

// pktInfo is the control message that gives a message its interface and its source.
// Both may be missing.
func (f Family) pktInfo(ifindex int, source netip.Addr) []byte {
	if f == V4 {
		info := &unix.Inet4Pktinfo{Ifindex: int32(ifindex)}
		if source.IsValid() {
			info.Spec_dst = source.As4()
		}
		return unix.PktInfo4(info)
	}
	info := &unix.Inet6Pktinfo{Ifindex: uint32(ifindex)}
	switch {
	case source.IsValid():
		info.Addr = source.As16()
	case f == Mapped: // the kernel wants this family's unspecified address
		info.Addr = netip.AddrFrom16(netip.IPv4Unspecified().As16()).As16()
	}
	return unix.PktInfo6(info)
}
