// SPDX-License-Identifier: Apache-2.0

package mmsg

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// localOf finds the destination address of a datagram among its control messages, the
// invalid address if it is not there.
func localOf(control []byte) netip.Addr {
	for len(control) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return netip.Addr{}
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[8:12])) // ipi_addr: the header's destination
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(data[:16])).Unmap()
		}
		control = rest
	}
	return netip.Addr{}
}

// AppendSource appends the control message that sends a datagram from an address.
func (s *Socket) AppendSource(control []byte, local netip.Addr) []byte {
	if s.v6 {
		addr := local.As16()
		control = appendHeader(control, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		control = append(control, addr[:]...)
		return pad(append(control, 0, 0, 0, 0)) // any interface
	}
	addr := local.As4()
	control = appendHeader(control, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	control = append(control, 0, 0, 0, 0)
	control = append(control, addr[:]...) // ipi_spec_dst
	return pad(append(control, 0, 0, 0, 0))
}

// appendHeader appends a struct cmsghdr, whose length is a size_t.
func appendHeader(control []byte, level, kind uint32, size int) []byte {
	if unix.SizeofCmsghdr == 16 {
		control = binary.NativeEndian.AppendUint64(control, uint64(unix.CmsgLen(size)))
	} else {
		control = binary.NativeEndian.AppendUint32(control, uint32(unix.CmsgLen(size)))
	}
	control = binary.NativeEndian.AppendUint32(control, level)
	return binary.NativeEndian.AppendUint32(control, kind)
}

// pad fills up to where a next message would begin.
func pad(control []byte) []byte {
	for len(control)%unix.SizeofPtr != 0 {
		control = append(control, 0)
	}
	return control
}
