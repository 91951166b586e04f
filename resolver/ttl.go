// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxLife is how long an answer is believed whatever its TTL says; RFC 8767
	// section 4 wants "days to weeks".
	maxLife = 7 * 24 * 3600
	// maxNegative: RFC 2308 section 5 found one to three hours to work well.
	maxNegative = 3 * 3600
)

// answerKind is what an answer says about its name.
type answerKind int

const (
	notKept     answerKind = iota // says nothing that may be kept
	positive                      // has records of the type
	noData                        // the name has none of this type
	noName                        // the name does not exist, with any type
	noNameAlias                   // the end of the name's aliases does not exist
)

// appraise says what an answer is and for how many seconds it may be kept, zero for
// not at all. soa is the index of the SOA record of a negative answer.
func appraise(m *message, now time.Time) (kind answerKind, seconds uint32, soa int) {
	kind, soa = classify(m)
	if kind == notKept {
		return notKept, 0, -1
	}
	seconds = maxLife
	for i, r := range m.records {
		switch {
		case r.typ == dns.TypeOPT:
		case i == soa:
			seconds = min(seconds, negativeTTL(m, r), maxNegative)
		default:
			seconds = min(seconds, ttlOf(m.wire, r))
		}
		if r.typ == dns.TypeRRSIG {
			seconds = min(seconds, untilExpiry(m, r, now))
		}
	}
	if seconds == 0 {
		return notKept, 0, -1
	}
	return kind, seconds, soa
}

// classify follows RFC 2308 section 2: an answer without records of the type is
// negative, and only with an SOA record; else it is a referral or half an answer.
func classify(m *message) (kind answerKind, soa int) {
	if m.isTruncated() || m.count(countQD) != 1 {
		return notKept, -1 // RFC 2181 section 9
	}
	rcode := m.rcode()
	if rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return notKept, -1
	}
	soa = -1
	for i, r := range m.records {
		switch {
		case r.section == inAnswer && rcode == dns.RcodeSuccess && (r.typ == m.qtype || m.qtype == dns.TypeANY):
			return positive, -1
		case r.section == inAuthority && r.typ == dns.TypeSOA && soa < 0:
			soa = i
		}
	}
	switch {
	case soa < 0:
		return notKept, -1
	case rcode == dns.RcodeSuccess:
		return noData, soa
	case m.count(countAN) > 0:
		return noNameAlias, soa // RFC 6604 section 3
	case !m.name.isBelow(m.owner(m.records[soa])):
		return notKept, -1 // a zone that has no say in this name
	}
	return noName, soa
}

// isBelow reports whether n is zone or a name in it.
func (n wireName) isBelow(zone wireName) bool {
	for ; n != ""; n = n.parent() {
		if n == zone {
			return true
		}
	}
	return false
}

// readTTL is the TTL at the beginning of wire; with the uppermost bit set it means zero
// (RFC 2181 section 8).
func readTTL(wire []byte) uint32 {
	ttl := binary.BigEndian.Uint32(wire)
	if ttl > math.MaxInt32 {
		return 0
	}
	return ttl
}

// ttlOf is a record's TTL.
func ttlOf(wire []byte, r record) uint32 { return readTTL(wire[r.data-6:]) }

// negativeTTL is the smaller one of the SOA record's TTL and its last field
// (RFC 2308 section 5).
func negativeTTL(m *message, r record) uint32 {
	if r.end-r.data < 20 {
		return 0
	}
	return min(ttlOf(m.wire, r), readTTL(m.wire[r.end-4:]))
}

// untilExpiry is how long a signature is still good for: nobody could use the
// answer afterwards (RFC 4035 section 5.3.3).
func untilExpiry(m *message, r record, now time.Time) uint32 {
	if r.end-r.data < 18 {
		return 0
	}
	// Serial arithmetic: the field wraps around in 2106 (RFC 4034 section 3.1.5).
	left := int32(binary.BigEndian.Uint32(m.wire[r.data+8:]) - uint32(now.Unix()))
	return uint32(max(left, 0))
}

// age lowers the TTLs at offsets of a message in place; those that mean zero become it.
func age(wire []byte, ttls []uint16, seconds uint32) {
	for _, at := range ttls {
		ttl := wire[at : at+4 : at+4]
		old := readTTL(ttl)
		binary.BigEndian.PutUint32(ttl, old-min(old, seconds))
	}
}

// setTTLs gives all records one TTL.
func setTTLs(wire []byte, ttls []uint16, seconds uint32) {
	for _, at := range ttls {
		binary.BigEndian.PutUint32(wire[at:], seconds)
	}
}
