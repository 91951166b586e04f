// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// maxAliases is how many aliases an answer follows. Longer chains are mistakes:
// public resolvers stop between 8 and 16.
const maxAliases = 8

// tableStage answers the names of the table.
type tableStage struct {
	table func() *Table
	next  Exchanger
}

// Exchange answers from the table what it holds, and asks on for all else: other
// names, other classes, other operations, zone transfers, and signed messages,
// which a table without keys cannot answer.
func (s *tableStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	m := req.msg
	if m.opcode() != dns.OpcodeQuery || m.qclass != dns.ClassINET || m.signed || isTransfer(m.qtype) {
		return s.next.Exchange(ctx, req)
	}
	a := &answer{table: s.table(), req: req, name: askedName(m)}
	st := req.scope.settings.Load()
	asked := a.find(m.name)
	if asked.ok() {
		return a.respond(ctx, s.next, asked)
	}
	for _, suffix := range st.search {
		short, ok := m.name.without(suffix)
		if !ok {
			continue
		}
		if at := a.find(short); at.ok() {
			a.expand(short, at)
			return a.respond(ctx, s.next, at)
		}
	}
	if st.isDenied(asked, []byte(m.name)) {
		return a.deny(asked)
	}
	return s.next.Exchange(ctx, req)
}

// askedName is the name of the question in the client's own case.
func askedName(m *message) string {
	s, _, err := dns.UnpackDomainName(m.wire, headerLen)
	if err != nil {
		return m.name.String()
	}
	return s
}

// answer is one answer from the table in the making.
type answer struct {
	table  *Table
	req    *Request
	name   string // owner of the next record, as asked or as the alias wrote it
	rrs    []dns.RR
	places []string
	looked []look
	// expanded is an answer to a name with a search suffix behind it, denied one that says
	// that there is no such name.
	expanded, denied bool
}

// look is one look into the table that an answer rests on, and what was there.
type look struct {
	name wireName
	hit  hit
}

func (a *answer) find(name wireName) hit {
	at := a.table.find(name)
	a.looked = append(a.looked, look{name, at})
	return at
}

// expand puts the alias from the expanded name to the name of the table in front.
// A question for the alias itself ends there.
func (a *answer) expand(name wireName, at hit) {
	a.rrs = append(a.rrs, &dns.CNAME{
		Hdr:    dns.RR_Header{Name: a.name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: at.ttl()},
		Target: name.String(),
	})
	a.name, a.expanded = name.String(), true
}

// respond follows the aliases from what was found to records of the asked type, to a
// name without any, or out of the table.
func (a *answer) respond(ctx context.Context, next Exchanger, at hit) (*Response, error) {
	qtype := a.req.msg.qtype
	for range maxAliases {
		a.places = append(a.places, at.place(a.table))
		if qtype == dns.TypeCNAME && len(a.rrs) > 0 || a.take(at, qtype) {
			return a.ours(dns.RcodeSuccess, nil)
		}
		target, ok := at.alias()
		if !ok && at.isElsewhere(qtype) {
			return a.elsewhere(ctx, next, at)
		}
		if !ok {
			return a.ours(dns.RcodeSuccess, []dns.RR{a.soa(at)})
		}
		a.take(at, dns.TypeCNAME)
		a.name = target.String()
		at = a.find(target)
		if a.req.scope.settings.Load().isDenied(at, []byte(target)) {
			return a.deny(at)
		}
		if !at.ok() {
			return a.leave(ctx, next, target)
		}
	}
	return nil, fmt.Errorf("%s has more than %d aliases", a.req.msg.name, maxAliases)
}

// ours is an answer without anything from further on.
func (a *answer) ours(rcode int, authority []dns.RR) (*Response, error) {
	res, err := a.message(rcode, authority)
	if err != nil {
		return nil, err
	}
	res.looked = a.looked
	res.from, res.saved = fromTable, a.expanded || a.denied
	return res, nil
}

// take adds the records of a type, or all of them for ANY (RFC 8482 allows any
// choice, and an honest one helps those who debug with it).
func (a *answer) take(at hit, qtype uint16) bool {
	before := len(a.rrs)
	if at.entry != nil {
		for kind, rdata := range at.entry.each {
			if qtype == dns.TypeANY || qtype == typeOf(kind) {
				a.rrs = append(a.rrs, newRR(a.name, kind, rdata, at.ttl()))
			}
		}
	}
	if at.reverse != nil && (qtype == dns.TypeANY || qtype == dns.TypePTR) {
		for _, p := range at.reverse.pointers() {
			a.rrs = append(a.rrs, &dns.PTR{
				Hdr: dns.RR_Header{Name: a.name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: p.ttl},
				Ptr: p.name.String(),
			})
		}
	}
	return len(a.rrs) > before
}

// soa says how long "no such type", or name, may be believed (RFC 2308 section 5). It
// stands at the name itself where we know nothing of the zone around it.
func (a *answer) soa(at hit) dns.RR {
	if at.apex == nil {
		return denial(a.name, min(at.ttl(), defaultTTL))
	}
	ttl := min(at.apex.ttl, defaultTTL)
	if at.ok() {
		ttl = min(at.ttl(), ttl)
	}
	return denial(at.apex.owner(a.name), ttl)
}

func denial(owner string, ttl uint32) dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		// RFC 6761: invalid is sure to be nobody's.
		Ns: "dnsteer.invalid.", Mbox: "hostmaster.dnsteer.invalid.",
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}

// leave asks on for the end of an alias that is not in the table, and appends what
// comes.
func (a *answer) leave(ctx context.Context, next Exchanger, target wireName) (*Response, error) {
	res, err := next.Exchange(ctx, a.req.derive(target))
	if err != nil {
		return nil, err
	}
	return a.followed(res, target)
}

// followed appends what came for the end of an alias.
func (a *answer) followed(res *Response, target wireName) (*Response, error) {
	var theirs dns.Msg
	if err := theirs.Unpack(res.msg.wire); err != nil {
		return nil, &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeInvalidData,
			text: fmt.Sprintf("answer for %s, from %s: %v", target, res.origin, err)}
	}
	a.rrs = append(a.rrs, theirs.Answer...)
	out, err := a.message(theirs.Rcode, theirs.Ns)
	if err != nil {
		return nil, err
	}
	if opt, err := res.msg.edns(); err == nil && opt != nil {
		out.msg.addOPT(opt) // for its remarks: RFC 8914 errors pass
	}
	out.origin += ", then " + res.origin
	return out, nil
}

// message builds the response. AA speaks of the first owner, which is ours
// (RFC 1035 section 4.1.1).
func (a *answer) message(rcode int, authority []dns.RR) (*Response, error) {
	m := a.req.msg
	msg := &dns.Msg{
		MsgHdr: dns.MsgHdr{
			Id: m.id(), Response: true, Authoritative: true, RecursionAvailable: true,
			RecursionDesired: m.flags()&bitRD != 0, CheckingDisabled: m.flags()&bitCD != 0, Rcode: rcode & 0xf,
		},
		Compress: true,
		Question: []dns.Question{{Name: askedName(m), Qtype: m.qtype, Qclass: m.qclass}},
		Answer:   a.rrs,
		Ns:       authority,
		Extra:    a.additional(),
	}
	wire, err := msg.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack the answer for %s: %w", m.name, err)
	}
	packed, err := parseMessage(wire)
	if err != nil {
		return nil, fmt.Errorf("pack the answer for %s: %w", m.name, err)
	}
	return &Response{msg: packed, origin: "table " + strings.Join(a.places, ", ")}, nil
}

// additional holds the addresses of what SRV records point at (RFC 2782).
func (a *answer) additional() []dns.RR {
	var rrs []dns.RR
	done := make(map[wireName]bool)
	for _, rr := range a.rrs {
		srv, ok := rr.(*dns.SRV)
		if !ok {
			continue
		}
		target := fromRR(srv.Target)
		if done[target] {
			continue
		}
		done[target] = true
		at := &answer{name: srv.Target}
		to := a.find(target)
		at.take(to, dns.TypeA)
		at.take(to, dns.TypeAAAA)
		rrs = append(rrs, at.rrs...)
	}
	return rrs
}

// fromRR is the name of a record that we built ourselves.
func fromRR(s string) wireName {
	name, err := parseName(s)
	if err != nil {
		return ""
	}
	return name
}

// derive is the same request for another name.
func (r *Request) derive(name wireName) *Request {
	wire := append([]byte(nil), r.msg.wire[:headerLen]...)
	wire = append(wire, name...)
	wire = append(wire, r.msg.wire[r.msg.question-4:r.msg.question]...)
	for _, at := range []int{countAN, countNS, countAR} {
		setCount(wire, at, 0)
	}
	m := &message{wire: wire, question: len(wire), name: name, qtype: r.msg.qtype, qclass: r.msg.qclass, opt: -1}
	if r.edns != nil {
		m.addOPT(r.edns)
	}
	return &Request{Client: r.Client, Local: r.Local, TCP: r.TCP, scope: r.scope, msg: m, edns: r.edns}
}
