// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// records are those of one name, packed one behind the other: the kind, what has no
// length of its own, and the RDATA, its names uncompressed. A table holds millions of
// them, and a garbage collector that looks into none.
type records string

// Kinds of packed records. An address may give its name back, as a PTR record.
const (
	kindA byte = iota + 1
	kindAAAA
	kindCNAME
	kindSRV // its six octets before the target, and that relative to the owner
	kindTXT // and two octets of length
	// kindPointer is added to that of an address.
	kindPointer byte = 1 << 7
)

const srvFixed = 6 // priority, weight, port

// typeOf is the type of the records of a kind.
func typeOf(kind byte) uint16 {
	switch kind &^ kindPointer {
	case kindA:
		return dns.TypeA
	case kindAAAA:
		return dns.TypeAAAA
	case kindCNAME:
		return dns.TypeCNAME
	case kindSRV:
		return dns.TypeSRV
	}
	return dns.TypeTXT
}

// each yields the kind and the RDATA of every record, but of SRV records the packed form.
func (r records) each(yield func(kind byte, rdata string) bool) {
	for len(r) > 0 {
		kind, rest := r[0], string(r[1:])
		n := 0
		switch kind &^ kindPointer {
		case kindA:
			n = net.IPv4len
		case kindAAAA:
			n = net.IPv6len
		case kindCNAME:
			n = nameLen(rest)
		case kindSRV:
			n = srvFixed + 1 + nameLen(rest[srvFixed+1:])
		case kindTXT:
			n = int(rest[0])<<8 | int(rest[1])
			rest = rest[2:]
		}
		if !yield(kind, rest[:n]) {
			return
		}
		r = records(rest[n:])
	}
}

// nameLen is the length of the uncompressed name at the beginning of s.
func nameLen(s string) int {
	n := 0
	for s[n] != 0 {
		n += 1 + int(s[n])
	}
	return n + 1
}

// addressKind is the kind of addresses of so many octets.
func addressKind(octets int) byte {
	if octets == net.IPv4len {
		return kindA
	}
	return kindAAAA
}

func appendAddress(b []byte, addr netip.Addr, pointer bool) []byte {
	kind := addressKind(addr.BitLen() / 8)
	if pointer {
		kind |= kindPointer
	}
	b = append(b, kind)
	if addr.Is4() {
		a := addr.As4()
		return append(b, a[:]...)
	}
	a := addr.As16()
	return append(b, a[:]...)
}

func appendCNAME(b []byte, target wireName) []byte {
	return append(append(b, kindCNAME), target...)
}

// appendSRV keeps of a target what is not the end of its owner, and where in the owner
// that begins: Services have their ports below their own name.
func appendSRV(b []byte, owner wireName, priority, weight, port uint16, target wireName) []byte {
	b = append(b, kindSRV)
	b = binary.BigEndian.AppendUint16(b, priority)
	b = binary.BigEndian.AppendUint16(b, weight)
	b = binary.BigEndian.AppendUint16(b, port)
	end := target
	for suffixAt(owner, end) < 0 {
		end = end.parent() // the root at last
	}
	b = append(b, byte(len(owner)-len(end)))
	return append(append(b, target[:len(target)-len(end)]...), 0)
}

// unpackSRV is the RDATA of a packed SRV record.
func unpackSRV(owner wireName, packed string) string {
	return packed[:srvFixed] + string(appendTarget(nil, owner, packed))
}

// appendTarget appends what a packed SRV record points at.
func appendTarget(b []byte, owner wireName, packed string) []byte {
	b = append(b, packed[srvFixed+1:len(packed)-1]...)
	return append(b, owner[packed[srvFixed]:]...)
}

// each yields the kind and the RDATA of every record.
func (e *entry) each(yield func(kind byte, rdata string) bool) {
	for kind, rdata := range e.records.each {
		if kind == kindSRV {
			rdata = unpackSRV(e.name, rdata)
		}
		if !yield(kind, rdata) {
			return
		}
	}
}

// appendTXT cuts a text into character-strings of 255 octets. It is at most as long
// as one message holds.
func appendTXT(b []byte, text string) []byte {
	length := len(text) + max(1, (len(text)+254)/255)
	b = append(b, kindTXT, byte(length>>8), byte(length))
	for {
		n := min(len(text), 255)
		b = append(append(b, byte(n)), text[:n]...)
		if text = text[n:]; text == "" {
			return b
		}
	}
}

// hasAddress reports whether an address is among the records.
func (r records) hasAddress(addr netip.Addr) bool {
	for kind, rdata := range r.each {
		if have, ok := addressOf(kind, rdata); ok && have == addr {
			return true
		}
	}
	return false
}

// addressOf is the address of an A or AAAA record.
func addressOf(kind byte, rdata string) (netip.Addr, bool) {
	switch kind &^ kindPointer {
	case kindA:
		return netip.AddrFrom4([4]byte([]byte(rdata))), true
	case kindAAAA:
		return netip.AddrFrom16([16]byte([]byte(rdata))), true
	}
	return netip.Addr{}, false
}

// alias returns where a CNAME leads; it stands alone.
func (r records) alias() (wireName, bool) {
	if r == "" || r[0] != kindCNAME {
		return "", false
	}
	return wireName(r[1:]), true
}

// octets is how much of a message the records of a name need, uncompressed.
func (e *entry) octets() int {
	size := 0
	for _, rdata := range e.each {
		size += len(e.name) + 10 + len(rdata)
	}
	return size
}
