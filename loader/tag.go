// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"
)

// Tags, as bpf/target.h makes them: 127.53.hi.lo, and the ULA prefix "dnste", then
// the port, then the number.

func tagPrefix6(port uint16) netip.Prefix {
	var a [16]byte
	copy(a[:], "\xfddnste")
	binary.BigEndian.PutUint16(a[6:], port)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// sealAddress is the address behind the last tag, where seals are: see Listeners.Seal.
func sealAddress(family int, port uint16) netip.Addr {
	if family == familyIPv4 {
		return netip.AddrFrom4([4]byte{127, 54, 0, 0})
	}
	a := tagPrefix6(port).Addr().As16()
	a[13] = 1
	return netip.AddrFrom16(a)
}

// tagNumber returns the number in a tag; ok is false if the address is none.
func tagNumber(a netip.Addr, port uint16) (number uint32, ok bool) {
	a = a.Unmap()
	if a.Is4() {
		b := a.As4()
		return uint32(binary.BigEndian.Uint16(b[2:])), b[0] == 127 && b[1] == 53
	}
	if !tagPrefix6(port).Contains(a) {
		return 0, false
	}
	b := a.As16()
	low := binary.BigEndian.Uint64(b[8:])
	return uint32(low), low < 1<<16
}
