// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// kept is an answer in the cache: wire without its OPT record, which is of the hop
// that brought it. It never changes, but for fetched.
type kept struct {
	wire     []byte
	question int // end of the question section
	ttls     []uint16
	// remarks are the extended errors that came with it: the one thing in an OPT
	// record that is about the answer.
	remarks []option

	kind     answerKind
	stored   time.Time
	seconds  uint32 // how long it is fresh
	upstream netip.AddrPort
	tcp      bool // came by TCP, so that nothing was left out for want of room

	fetched atomic.Bool // somebody fetches the answer that comes after this one
}

// keep makes an answer fit for the cache, nil if it is not.
func keep(res *Response, now time.Time) *kept {
	if res.rest != nil {
		return nil
	}
	kind, seconds, soa := appraise(res.msg, now)
	if kind == notKept {
		return nil
	}
	remarks, ok := remarksOf(res.msg)
	if !ok {
		return nil
	}
	// Where records stood behind the OPT record the offsets are others.
	m, err := parseMessage(res.msg.withoutOPT(0))
	if err != nil {
		return nil
	}
	k := &kept{wire: m.wire, question: m.question, remarks: remarks, kind: kind, stored: now, seconds: seconds,
		upstream: res.upstream, tcp: res.tcp}
	for _, r := range m.records {
		k.ttls = append(k.ttls, uint16(r.data-6))
	}
	if soa >= 0 { // before any OPT record, so its index is the same
		// RFC 2308 section 5: its TTL is that of the answer.
		setTTLs(m.wire, k.ttls[soa:soa+1], min(negativeTTL(m, m.records[soa]), maxNegative))
	}
	return k
}

// remarksOf copies the extended errors of an answer. It is false for an answer to
// a subnet of clients (RFC 7871 section 7.3.1), which is not everybody's.
func remarksOf(m *message) ([]option, bool) {
	opt, err := m.edns()
	if err != nil {
		return nil, false
	}
	if opt == nil {
		return nil, true
	}
	var remarks []option
	for _, o := range opt.options {
		switch o.code {
		case dns.EDNS0SUBNET:
			if len(o.data) < 4 || o.data[3] != 0 {
				return nil, false
			}
		case dns.EDNS0EDE:
			remarks = append(remarks, option{o.code, append([]byte(nil), o.data...)})
		}
	}
	return remarks, true
}

func (k *kept) size() int {
	if k == nil {
		return 0
	}
	return len(k.wire) + 2*len(k.ttls) + optionsLen(k.remarks)
}

// serves reports whether the answer may be given to a request as it is. One that
// came by UDP may lack what had no room: over TCP we ask again.
func (k *kept) serves(req *Request, now time.Time) bool {
	return k.isFresh(now) && (k.tcp || !req.TCP)
}

// spares reports whether the answer spares an upstream another question: about a type
// that nobody has asked for, since no type is there (RFC 2308 section 5).
func (k *kept) spares(qtype uint16) bool {
	return k.kind == noName && binary.BigEndian.Uint16(k.wire[k.question-4:]) != qtype
}

// isFresh reports whether the answer may still be given as it is.
func (k *kept) isFresh(now time.Time) bool {
	return k != nil && now.Sub(k.stored) < time.Duration(k.seconds)*time.Second
}

// isStale reports whether an answer that is no longer fresh is better than none.
func (k *kept) isStale(now time.Time) bool {
	return k != nil && now.Sub(k.stored) < time.Duration(k.seconds)*time.Second+maxStale
}

// age is whole seconds since the answer came. Who has looked at the clock before it came
// sees it new.
func (k *kept) age(now time.Time) uint32 { return uint32(max(now.Sub(k.stored), 0) / time.Second) }

// response is the answer to a request at a time.
func (k *kept) response(req *Request, now time.Time) (*Response, error) {
	wire := k.asked(req)
	age(wire, k.ttlsFor(wire), k.age(now))
	return k.as(wire, req, fromCache, k.remarks, fmt.Sprintf("cache, %ds after upstream %s", k.age(now), k.upstream))
}

// stale is the answer in place of none, with the TTL of RFC 8767 section 4 and a
// remark that says so (RFC 8914 sections 4.4 and 4.20).
func (k *kept) stale(req *Request, now time.Time, why string) (*Response, error) {
	wire := k.asked(req)
	setTTLs(wire, k.ttlsFor(wire), staleTTL)
	code := dns.ExtendedErrorCodeStaleAnswer
	if k.kind == noName || k.kind == noNameAlias {
		code = dns.ExtendedErrorCodeStaleNXDOMAINAnswer
	}
	remarks := append(slices.Clip(k.remarks), extendedError(code, why))
	return k.as(wire, req, fromStale, remarks, fmt.Sprintf("cache, stale, %ds after upstream %s", k.age(now), k.upstream))
}

// asked copies the answer with the question of a request. It may be another one:
// NXDOMAIN speaks of all types (RFC 2308 section 5) and of all names below
// (RFC 8020 section 2). Then the stored name is the end of the new one, and every
// compression pointer moves by what stands before it.
func (k *kept) asked(req *Request) []byte {
	q := req.msg.questions()
	longer := len(q) - (k.question - headerLen)
	wire := make([]byte, 0, len(k.wire)+longer)
	wire = append(wire, k.wire[:headerLen]...)
	wire = append(wire, q...)
	wire = append(wire, k.wire[k.question:]...)
	if longer == 0 {
		return wire
	}
	shift := shift{from: headerLen, by: -longer}
	m := message{wire: k.wire, question: k.question, opt: -1}
	_ = m.parseRecords() // it was parsed before
	for _, r := range m.records {
		shift.names(wire, r.start+longer, 1)
		offset, count := namesIn(r.typ)
		shift.names(wire, r.data+longer+offset, count)
	}
	return wire
}

// ttlsFor are the places of the TTLs in what asked returns.
func (k *kept) ttlsFor(wire []byte) []uint16 {
	longer := uint16(len(wire) - len(k.wire))
	if longer == 0 {
		return k.ttls
	}
	ttls := make([]uint16, len(k.ttls))
	for i, at := range k.ttls {
		ttls[i] = at + longer
	}
	return ttls
}

// as wraps a wire made of this answer. It parses: the wire it was made of did, and
// pointers moved together with what they point at.
func (k *kept) as(wire []byte, req *Request, from source, remarks []option, origin string) (*Response, error) {
	m, err := parseMessage(wire)
	if err != nil {
		return nil, fmt.Errorf("read %s from the cache: %w", req.msg.name, err)
	}
	if len(remarks) > 0 && req.edns != nil {
		m.addOPT(&edns{size: udpSize, flags: req.edns.flags & doBit, options: remarks})
	}
	return &Response{msg: m, origin: origin, upstream: k.upstream, tcp: k.tcp, from: from}, nil
}
