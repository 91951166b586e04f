// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"
)

// idleUnits is our TCP idle timeout in the units of RFC 7828.
const idleUnits = uint16(tcpIdle / keepaliveUnit)

// fit makes of an answer what goes to this client, in memory that is empty: its ID, its
// spelling of the question, an OPT record of ours if and only if it sent one, and no
// more octets than it takes.
func fit(wire []byte, req *Request, answer *message, origin string) []byte {
	limit := req.limit()
	if answer.signed || req.msg.signed {
		return fitSigned(wire, req, answer, limit)
	}
	opt := req.replyEDNS(answer)
	spare := 0
	if opt != nil {
		spare = opt.len()
	}
	if headerLen+len(req.msg.questions())+spare > limit {
		opt.options, spare = nil, optFixed // remarks alone would be too long
	}
	wire = answer.appendWithoutOPT(slices.Grow(wire, len(answer.wire)+spare+4+len(origin)))
	if req.TCP && len(wire)+spare > limit {
		opt, spare = nil, 0 // TC means nothing over TCP: the answer goes first
	}
	// The origin is a remark for people: it never costs a record.
	if opt != nil && req.wantsOrigin() && len(wire)+spare+4+len(origin) <= limit {
		opt.options = append(opt.options, option{optOrigin, []byte(origin)})
		spare = opt.len()
	}
	if len(wire)+spare > limit {
		wire = answer.cut(wire, limit-spare)
	}
	setID(wire, req.msg.id())
	if q := req.msg.questions(); answer.question > headerLen && sameFold(q, answer.questions()) {
		copy(wire[headerLen:], q) // 0x20: the client's own case, RFC 4343
	}
	if opt != nil {
		wire = opt.appendTo(wire)
		setCount(wire, countAR, int(binary.BigEndian.Uint16(wire[countAR:]))+1)
	}
	return wire
}

// fitSigned leaves a signed message alone but for its ID, of which the signature
// has the original (RFC 8945 section 5.3). One that the client cannot take becomes
// a bare TC, for it to ask again over TCP.
func fitSigned(wire []byte, req *Request, answer *message, limit int) []byte {
	wire = append(wire, answer.wire...)
	if len(wire) > limit {
		wire = answer.cut(wire, 0)
		setFlags(wire, answer.flags()|bitTC) // also where only additional records are lost
	}
	setID(wire, req.msg.id())
	return wire
}

// limit is what the client takes in one message.
func (r *Request) limit() int {
	switch {
	case r.TCP:
		return maxWire
	case r.edns == nil:
		return minSize
	}
	return min(max(minSize, int(r.edns.size)), maxDatagram)
}

// maxDatagram is what UDP over IPv4 can carry; the kernel refuses more.
const maxDatagram = 65507

// replyEDNS is the OPT record of a reply, nil if the client sent none.
func (r *Request) replyEDNS(answer *message) *edns {
	if r.edns == nil {
		return nil
	}
	opt := &edns{size: udpSize, flags: r.edns.flags & doBit}
	// parseMessage read the answer; an OPT record in it that makes no sense is
	// not worth the answer.
	if theirs, err := answer.edns(); err == nil && theirs != nil {
		opt.extended, opt.flags, opt.options = theirs.extended, theirs.flags, theirs.passed()
	}
	if _, ok := r.edns.option(dns.EDNS0TCPKEEPALIVE); ok && r.TCP {
		opt.options = append(opt.options, option{dns.EDNS0TCPKEEPALIVE, binary.BigEndian.AppendUint16(nil, idleUnits)})
	}
	return opt
}

func (r *Request) wantsOrigin() bool {
	if r.edns == nil {
		return false
	}
	_, ok := r.edns.option(optOrigin)
	return ok
}

const doBit = 1 << 15

// cut shortens wire, this message without its OPT record, to whole RRsets that
// fit into limit octets. It sets TC when something was lost that the client needs
// (RFC 2181 section 9).
func (m *message) cut(wire []byte, limit int) []byte {
	kept := [3]int{}
	end := m.question
	for i := 0; i < len(m.records); {
		last := m.setEnd(i)
		if m.records[i].typ == dns.TypeOPT {
			i = last
			continue
		}
		shift := 0
		if m.opt >= 0 && m.opt < i {
			shift = m.records[m.opt].end - m.records[m.opt].start
		}
		if m.records[last-1].end-shift > limit {
			if slices.ContainsFunc(m.records[i:], m.isNeeded) {
				setFlags(wire, m.flags()|bitTC)
			}
			break
		}
		end = m.records[last-1].end - shift
		kept[m.records[i].section] += last - i
		i = last
	}
	wire = wire[:min(end, len(wire))]
	for section, at := range []int{countAN, countNS, countAR} {
		setCount(wire, at, kept[section])
	}
	return wire
}

// isNeeded reports whether the client could not do without a record: all but the
// additional section and, where there is an answer, the nameservers that gave it. The
// glue of a referral is needed (RFC 9471).
func (m *message) isNeeded(r record) bool {
	switch r.section {
	case inAnswer:
		return true
	case inAuthority:
		return !m.isAnswered() || r.typ != dns.TypeNS && r.typ != dns.TypeRRSIG
	}
	referral := m.count(countAN) == 0 && m.count(countNS) > 0 && m.flags()&bitAA == 0
	return referral && r.typ != dns.TypeOPT
}

// isAnswered reports whether there are records of the type that was asked for, and
// not an alias alone.
func (m *message) isAnswered() bool {
	return slices.ContainsFunc(m.records, func(r record) bool {
		return r.section == inAnswer && (r.typ == m.qtype || m.qtype == dns.TypeANY)
	})
}

// setEnd returns the index behind the RRset that begins at record i, its
// signatures included.
func (m *message) setEnd(i int) int {
	first := m.records[i]
	if first.typ == dns.TypeOPT {
		return i + 1
	}
	owner := m.owner(first)
	for i++; i < len(m.records); i++ {
		r := m.records[i]
		if r.section != first.section || r.typ != first.typ && r.typ != dns.TypeRRSIG || m.owner(r) != owner {
			break
		}
	}
	return i
}

// failed is the answer that tells a client why there is none.
func failed(req *Request, f *failure) *message {
	wire := make([]byte, 0, minSize)
	wire = append(wire, req.msg.wire[:req.msg.question]...)
	flags := req.msg.flags()&(0xf<<11|bitRD|bitCD) | bitQR | bitRA | f.rcode&0xf
	setFlags(wire, flags)
	for _, at := range []int{countAN, countNS, countAR} {
		setCount(wire, at, 0)
	}
	m := &message{wire: wire, question: req.msg.question, opt: -1}
	if req.edns == nil {
		return m
	}
	opt := &edns{size: udpSize, extended: uint8(f.rcode >> 4), flags: req.edns.flags & doBit}
	if f.ede != noEDE {
		opt.options = []option{extendedError(f.ede, f.text)}
	}
	opt.options = append(opt.options, f.remarks...)
	m.addOPT(opt)
	return m
}

// malformed answers a message of which only the header can be read: not
// implemented for operations whose form we do not know.
func malformed(wire []byte) []byte {
	out := make([]byte, headerLen)
	setID(out, binary.BigEndian.Uint16(wire))
	flags := binary.BigEndian.Uint16(wire[2:])
	rcode := uint16(dns.RcodeFormatError)
	switch flags >> 11 & 0xf {
	case dns.OpcodeQuery, dns.OpcodeStatus, dns.OpcodeNotify, dns.OpcodeUpdate:
	default:
		rcode = dns.RcodeNotImplemented
	}
	setFlags(out, flags&(0xf<<11|bitRD|bitCD)|bitQR|rcode)
	return out
}
