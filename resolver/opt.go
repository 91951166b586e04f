// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// withoutOPT copies a message with spare capacity, its OPT record left out.
func (m *message) withoutOPT(spare int) []byte {
	return m.appendWithoutOPT(make([]byte, 0, len(m.wire)+spare))
}

// appendWithoutOPT appends a message to what is empty, its OPT record left out.
//
// The record is almost always the last and leaves no trace. Where others follow,
// compression pointers among them move with what they point at.
func (m *message) appendWithoutOPT(wire []byte) []byte {
	if m.opt < 0 {
		return append(wire, m.wire...)
	}
	cut := m.records[m.opt]
	wire = append(wire, m.wire[:cut.start]...)
	wire = append(wire, m.wire[cut.end:]...)
	setCount(wire, countAR, m.count(countAR)-1)
	shift := shift{from: cut.end, by: cut.end - cut.start}
	for _, r := range m.records[m.opt+1:] {
		shift.names(wire, r.start-shift.by, 1)
		offset, count := namesIn(r.typ)
		shift.names(wire, r.data-shift.by+offset, count)
	}
	return wire
}

// addOPT puts an OPT record behind a message of ours that has none.
func (m *message) addOPT(e *edns) {
	start := len(m.wire)
	m.wire = e.appendTo(m.wire)
	m.opt = len(m.records)
	m.records = append(m.records, record{section: inAdditional, start: start, data: start + optFixed,
		end: len(m.wire), typ: dns.TypeOPT, class: e.size})
	setCount(m.wire, countAR, m.count(countAR)+1)
}

// shift mends compression pointers after octets before them were cut out.
type shift struct{ from, by int }

// names mends count names one behind the other.
func (s shift) names(wire []byte, off, count int) {
	for ; count > 0; count-- {
		for off < len(wire) && wire[off] != 0 && wire[off] <= maxLabel {
			off += 1 + int(wire[off])
		}
		if off+1 >= len(wire) {
			return
		}
		if wire[off] < 0xc0 {
			off++
			continue
		}
		if target := int(binary.BigEndian.Uint16(wire[off:]) & 0x3fff); target >= s.from {
			binary.BigEndian.PutUint16(wire[off:], uint16(0xc000|(target-s.by)))
		}
		off += 2
	}
}

// namesIn says where names that may be compressed stand in RDATA: those of
// RFC 1035, and those that RFC 3597 section 4 bids us expect. RDATA of any other
// type is opaque: octets in it that look like a pointer are none.
func namesIn(typ uint16) (offset, count int) {
	switch typ {
	case dns.TypeNS, dns.TypeMD, dns.TypeMF, dns.TypeCNAME, dns.TypeMB, dns.TypeMG, dns.TypeMR, dns.TypePTR:
		return 0, 1
	case dns.TypeSOA, dns.TypeMINFO, dns.TypeRP:
		return 0, 2
	case dns.TypeMX, dns.TypeAFSDB, dns.TypeRT:
		return 2, 1
	case dns.TypePX:
		return 2, 2
	case dns.TypeSRV:
		return 6, 1
	}
	return 0, 0
}
