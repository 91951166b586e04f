// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// tableStage answers the names of the table where the wire path does not, and asks on
// where only a part of the answer is in the table.
type tableStage struct {
	table func() *Table
	next  Exchanger
}

// Exchange answers from the table what it holds, and asks on for all else: other
// names, other classes, other operations, zone transfers, and signed messages,
// which a table without keys cannot answer.
func (s *tableStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	m := req.msg
	if !m.isTables() {
		return s.next.Exchange(ctx, req)
	}
	p := partial{req: req, next: s.next}
	p.traced = true
	switch got := p.compose(nil, m.wire[:m.question], []byte(m.name), s.table(), req.scope.settings.Load()); got {
	case ours:
		return p.response("")
	case leads:
		return p.leave(ctx)
	case elsewhere:
		return p.elsewhere(ctx)
	case endless:
		return nil, fmt.Errorf("%s has more than %d aliases", m.name, maxAliases)
	}
	return s.next.Exchange(ctx, req)
}

// partial is an answer of the table, of which a part may be somebody else's.
type partial struct {
	answer
	req  *Request
	next Exchanger
}

// response is the answer, to which others have given their part.
func (p *partial) response(others string) (*Response, error) {
	m, err := p.parsed(p.req.msg.name)
	if err != nil {
		return nil, err
	}
	var places []string
	for _, at := range p.trace {
		places = append(places, at.place(p.table))
	}
	res := &Response{msg: m, origin: "table " + strings.Join(places, ", ") + others}
	if others == "" {
		res.from, res.saved = fromTable, p.expanded || p.denied
	}
	return res, nil
}

// ask asks on for a name, which is another one than the client's behind an alias.
func (p *partial) ask(ctx context.Context, name wireName) (*Response, error) {
	if p.counts[inAnswer] == 0 {
		return p.next.Exchange(ctx, p.req)
	}
	return p.next.Exchange(ctx, p.req.derive(name))
}

// leave asks on for the end of an alias that is not in the table, and appends what
// comes.
func (p *partial) leave(ctx context.Context) (*Response, error) {
	target := wireName(p.name)
	res, err := p.ask(ctx, target)
	if err != nil {
		return nil, err
	}
	return p.followed(res, target)
}

// elsewhere asks on for a type of a shared name. The table knows that the name exists, so
// those who do not know it say only that they have nothing of it (RFC 2308 section 2.2).
func (p *partial) elsewhere(ctx context.Context) (*Response, error) {
	name := wireName(p.name)
	res, err := p.ask(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case res.msg.rcode() == dns.RcodeNameError:
		p.section = inAuthority
		p.nothing(p.trace[len(p.trace)-1])
		p.finish()
		return p.response(", then " + res.origin)
	case p.counts[inAnswer] > 0:
		return p.followed(res, name)
	}
	return res, nil
}

// followed appends what came for the end of an alias.
func (p *partial) followed(res *Response, target wireName) (*Response, error) {
	var both, theirs dns.Msg
	if err := theirs.Unpack(res.msg.wire); err != nil {
		return nil, &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeInvalidData,
			text: fmt.Sprintf("answer for %s, from %s: %v", target, res.origin, err)}
	}
	if err := both.Unpack(p.message()); err != nil {
		return nil, fmt.Errorf("read the aliases of %s: %w", p.req.msg.name, err)
	}
	both.Answer, both.Ns = append(both.Answer, theirs.Answer...), theirs.Ns
	both.Rcode, both.Compress = theirs.Rcode&0xf, true
	wire, err := both.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack the answer for %s: %w", p.req.msg.name, err)
	}
	p.base, p.out = 0, wire
	out, err := p.response(", then " + res.origin)
	if err != nil {
		return nil, err
	}
	if opt, err := res.msg.edns(); err == nil && opt != nil {
		out.msg.addOPT(opt) // for its remarks: RFC 8914 errors pass
	}
	return out, nil
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
