// SPDX-License-Identifier: Apache-2.0

package resolver

import "github.com/miekg/dns"

// rotation is where an answer has the addresses that take turns at being the first (RFC
// 1794): clients that take the first would all take the same. The order of records says
// nothing (RFC 1034 section 3.6), so whoever wants one has to sort. Records of one length
// behind each other change places without anything else in the message changing.
type rotation struct{ start, size, n int }

// turnStep takes turns to places that are spread evenly however many of them are left out:
// who counts by one gives every second answer, and so all of one type if clients ask for two,
// the same first address of two.
const turnStep = 0x9e3779b1 // 2^32 by the golden ratio

// rotationOf finds the addresses of an answer; what it finds may be a single one.
func rotationOf(m *message) rotation {
	var r rotation
	if m.qtype != dns.TypeA && m.qtype != dns.TypeAAAA {
		return r
	}
	for _, rec := range m.records {
		size := rec.end - rec.start
		switch {
		case rec.section != inAnswer || rec.typ != m.qtype:
		case r.n == 0:
			r = rotation{rec.start, size, 1}
		case rec.start != r.start+r.n*r.size || size != r.size:
			return rotation{}
		default:
			r.n++
		}
	}
	return r
}

// appendTo appends an answer with another address in front for each turn, which are
// turnStep apart; that of turn 0 is the answer as it is.
func (r rotation) appendTo(out, wire []byte, turn uint32) []byte {
	if r.n < 2 {
		return append(out, wire...)
	}
	first, end := r.start+int(uint64(turn)*uint64(r.n)>>32)*r.size, r.start+r.n*r.size
	out = append(out, wire[:r.start]...)
	out = append(out, wire[first:end]...)
	out = append(out, wire[r.start:first]...)
	return append(out, wire[end:]...)
}
