// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"

	"github.com/dnsteer/dnsteer/bpf"
)

// Families index the per-family fields of a scope: enum family of bpf/steer.h.
const (
	familyIPv4 = iota
	familyIPv6
)

func familyOf(a netip.Addr) int {
	if a.Unmap().Is4() {
		return familyIPv4
	}
	return familyIPv6
}

// toAddress holds an address as the programs do: IPv4 as v4-mapped, network byte
// order. The invalid address becomes all zero, which means none.
func toAddress(a netip.Addr) bpf.SteerAddress {
	var out bpf.SteerAddress
	if !a.IsValid() {
		return out
	}
	bytes := a.As16()
	for i := range out.Word {
		out.Word[i] = binary.NativeEndian.Uint32(bytes[4*i:])
	}
	return out
}

// fromAddress is the inverse of toAddress.
func fromAddress(a bpf.SteerAddress) netip.Addr {
	if a.Word == [4]uint32{} {
		return netip.Addr{}
	}
	var bytes [16]byte
	for i, w := range a.Word {
		binary.NativeEndian.PutUint32(bytes[4*i:], w)
	}
	return netip.AddrFrom16(bytes).Unmap()
}
