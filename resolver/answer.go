// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"net"

	"github.com/miekg/dns"
)

const (
	// maxAliases is how many aliases an answer follows. Longer chains are mistakes:
	// public resolvers stop between 8 and 16.
	maxAliases = 8
	// turnStep takes turns to places that are spread evenly however many of them are left out:
	// who counts by one gives every second answer, and so all of one type if clients ask for two,
	// the same first address of two.
	turnStep = 0x9e3779b1 // 2^32 by the golden ratio
)

// answer is what a table answers to one question, in the making. It is written on the wire
// at once, and may be used for the next question: a loop allocates nothing for an answer.
//
// Of several addresses another one is the first at each turn (RFC 1794): clients that take
// the first would all take the same. The order of records says nothing (RFC 1034 section
// 3.6), so whoever wants one has to sort.
type answer struct {
	writer
	table *Table
	st    *settings
	qtype uint16
	turn  uint32        // that of 0 leaves addresses as they are
	buf   [maxName]byte // of name, but for that of the question
	// expanded is an answer to a name with a search suffix behind it, denied one that says
	// that there is no such name.
	expanded, denied bool
	// trace has what the answer rests on, for people to read, if that is wanted.
	traced bool
	trace  []hit
	srvs   map[string]bool // targets that have had their addresses
}

// extent is how far an answer came.
type extent int

const (
	notOurs   extent = iota // the table says nothing of the name
	ours                    // it is whole
	leads                   // an alias leads out of the table, to name
	elsewhere               // name is a shared one, and others are asked for the type
	endless                 // there are more than maxAliases
)

// isTables reports whether a table may answer for a type and class: it has no zones to
// transfer, and none but the Internet's names.
func isTables(qtype, qclass uint16) bool { return qclass == dns.ClassINET && !isTransfer(qtype) }

// isTables reports whether a query is one that we may answer ourselves. A signed one asks for
// a signature, for which we have no key.
func (m *message) isTables() bool {
	return m.opcode() == dns.OpcodeQuery && !m.signed && isTables(m.qtype, m.qclass)
}

// compose appends to out an answer to the question at the beginning of a query, whose name
// in lower case is name. Until release it holds on to all of these.
func (a *answer) compose(out, query, name []byte, t *Table, st *settings) extent {
	a.begin(out, query, name)
	a.table, a.st = t, st
	a.expanded, a.denied, a.trace = false, false, a.trace[:0]
	a.qtype = binary.BigEndian.Uint16(query[len(query)-4:])
	got := a.look()
	if got != notOurs && got != endless {
		a.finish()
	}
	return got
}

// release lets go of what was composed from.
func (a *answer) release() { a.table, a.st, a.name, a.out = nil, nil, nil, nil }

// look finds what answers for the name, or for what is left of it without a search suffix.
func (a *answer) look() extent {
	asked := a.table.find(a.name)
	if asked.ok() {
		return a.respond(asked)
	}
	for _, suffix := range a.st.search {
		end := suffixAt(a.name, suffix)
		if end <= 0 {
			continue
		}
		n := copy(a.buf[:], a.name[:end])
		a.buf[n] = 0
		if at := a.table.find(a.buf[:n+1]); at.ok() {
			a.expanded = true
			a.alias(at.ttl(), a.buf[:n+1])
			return a.respond(at)
		}
	}
	if a.st.isDenied(asked, a.name) {
		return a.deny(asked)
	}
	return notOurs
}

// respond follows the aliases from what was found to records of the asked type, to a
// name without any, or out of the table.
func (a *answer) respond(at hit) extent {
	for range maxAliases {
		a.note(at)
		// A question for the alias itself ends there.
		if a.qtype == dns.TypeCNAME && a.counts[inAnswer] > 0 || a.take(at, a.qtype) {
			a.addAddresses(at)
			return ours
		}
		target, ok := at.alias()
		if !ok && at.isElsewhere(a.qtype) {
			return elsewhere
		}
		if !ok {
			a.section = inAuthority
			a.nothing(at)
			return ours
		}
		a.alias(at.ttl(), a.buf[:copy(a.buf[:], target)])
		at = a.table.find(a.name)
		if a.st.isDenied(at, a.name) {
			return a.deny(at)
		}
		if !at.ok() {
			return leads
		}
	}
	return endless
}

// alias writes that the name is another one's, which is the one to look up from now on.
func (a *answer) alias(ttl uint32, target []byte) {
	a.record(dns.TypeCNAME, ttl)
	at := a.putName(target)
	a.end()
	a.name, a.owner = target, at
}

// take writes the records of a type, or all of them for ANY (RFC 8482 allows any
// choice, and an honest one helps those who debug with it).
func (a *answer) take(at hit, qtype uint16) bool {
	before := a.counts[a.section]
	e := at.entry
	switch {
	case e == nil:
	case qtype == dns.TypeA:
		a.takeAddresses(e, kindA)
	case qtype == dns.TypeAAAA:
		a.takeAddresses(e, kindAAAA)
	default:
		for kind, rdata := range e.records.each {
			if qtype == dns.TypeANY || qtype == typeOf(kind) {
				a.putPacked(e, kind, rdata)
			}
		}
	}
	if at.reverse != nil && (qtype == dns.TypeANY || qtype == dns.TypePTR) {
		for i := range at.reverse.count() {
			p := at.reverse.pointer(i)
			a.record(dns.TypePTR, p.ttl)
			a.putText(string(p.name))
			a.end()
		}
	}
	return a.counts[a.section] > before
}

// takeAddresses writes those of a kind, another one first in each turn.
func (a *answer) takeAddresses(e *entry, kind byte) {
	n, size := 0, 0
	for k, rdata := range e.records.each {
		if k&^kindPointer == kind {
			a.put(typeOf(kind), e.ttl, rdata)
			n, size = n+1, len(rdata)
		}
	}
	if first := int(uint64(a.turn) * uint64(n) >> 32); first > 0 && a.owner <= farthest {
		a.rotate(n, size, first)
	}
}

// rotate makes another one the first of the n last records, which differ in so many octets
// of RDATA alone.
func (a *answer) rotate(n, size, first int) {
	step := 2 + 10 + size // a pointer to the owner, and what is fixed
	rdata := func(i int) []byte { return a.out[len(a.out)-(n-1-i)*step-size:][:size] }
	reverse := func(from, to int) {
		for to--; from < to; from, to = from+1, to-1 {
			var tmp [net.IPv6len]byte
			copy(tmp[:], rdata(from))
			copy(rdata(from), rdata(to))
			copy(rdata(to), tmp[:])
		}
	}
	reverse(0, first)
	reverse(first, n)
	reverse(0, n)
}

// putPacked writes a packed record of an entry.
func (a *answer) putPacked(e *entry, kind byte, rdata string) {
	switch kind {
	case kindCNAME:
		a.record(dns.TypeCNAME, e.ttl)
		a.putText(rdata)
		a.end()
	case kindSRV:
		a.record(dns.TypeSRV, e.ttl)
		a.out = append(a.out, rdata[:srvFixed]...)
		a.out = appendTarget(a.out, e.name, rdata) // uncompressed, RFC 2782
		a.end()
	default:
		a.put(typeOf(kind), e.ttl, rdata)
	}
}

// addAddresses adds those of what the SRV records of an entry point at (RFC 2782), as far as
// there is room.
func (a *answer) addAddresses(at hit) {
	if at.entry == nil || a.qtype != dns.TypeSRV && a.qtype != dns.TypeANY {
		return
	}
	clear(a.srvs)
	for kind, rdata := range at.entry.records.each {
		target := rdata[min(srvFixed, len(rdata)):]
		if kind != kindSRV || a.srvs[target] {
			continue
		}
		if a.srvs == nil {
			a.srvs = make(map[string]bool)
		}
		a.srvs[target] = true
		a.name, a.owner, a.section = appendTarget(a.buf[:0], at.entry.name, rdata), unwritten, inAdditional
		whole := a.writer
		to := a.table.find(a.name)
		a.take(to, dns.TypeA)
		a.take(to, dns.TypeAAAA)
		if a.len() > maxWire {
			a.writer = whole
			return
		}
	}
}

// nothing says that there are no such records (RFC 2308 section 2), and how long that may be
// believed (section 5). The SOA stands at the name itself where we know nothing of the zone
// around it.
func (a *answer) nothing(at hit) {
	ttl := uint32(defaultTTL)
	if at.ok() {
		ttl = min(ttl, at.ttl())
	}
	if apex := a.table.apexes.find(a.name); apex != nil {
		ttl = min(ttl, apex.ttl)
		a.ownedBy(apex)
	}
	a.putSOA(ttl)
}

// deny answers for a name that the table lacks where it is the authority: NXDOMAIN, or no
// data if there are names below it, or it is the apex (RFC 2308 section 2).
func (a *answer) deny(at hit) extent {
	a.note(at)
	isApex := len(a.name) == len(at.apex.name)
	if !at.exists {
		a.denied, a.rcode = true, dns.RcodeNameError
	}
	if !isApex || a.qtype != dns.TypeSOA && a.qtype != dns.TypeANY {
		a.section = inAuthority
	}
	a.nothing(at)
	return ours
}

// ownedBy makes an apex above the name the owner of the next record, as it stands at the
// end of the name: in the client's own case, if it is the client's name.
func (a *answer) ownedBy(x *apex) {
	if a.owner == headerLen {
		a.owner += len(a.name) - len(x.name)
		return
	}
	a.name, a.owner = a.buf[:copy(a.buf[:], x.name)], unwritten
}

// note keeps what was found for the trace.
func (a *answer) note(at hit) {
	if a.traced {
		a.trace = append(a.trace, at)
	}
}
