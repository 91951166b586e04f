// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"net"
	"slices"

	"github.com/miekg/dns"
)

// A special name has the same meaning everywhere, and asking for it tells others what
// is none of their business.
var (
	localhost = mustName("localhost")
	// nowhere are names that do not exist, by RFC 6761 section 6.4, RFC 7686 and
	// RFC 6303 sections 4.2 to 4.4, but for localhost's own.
	nowhere = []wireName{
		mustName("invalid"), mustName("onion"),
		mustName("0.in-addr.arpa"), mustName("127.in-addr.arpa"), mustName("255.255.255.255.in-addr.arpa"),
		mustReverse("::"), mustReverse("::1"),
	}
	// loopbacks are localhost's reverse names.
	loopbacks = []wireName{mustReverse("127.0.0.1"), mustReverse("::1")}
)

func mustName(s string) wireName {
	name, err := parseName(s)
	if err != nil {
		panic(err) // a constant of ours
	}
	return name
}

func mustReverse(addr string) wireName {
	s, err := dns.ReverseAddr(addr)
	if err != nil {
		panic(err)
	}
	return mustName(s)
}

// isSpecial reports whether we answer a name, in lower case, ourselves. One that has a
// route, or lies below a suffix that has one, is whose route it is: Tor's own resolver
// knows onion.
func (sc *Scope) isSpecial(st *settings, name []byte) bool {
	if sc.server.cfg.ForwardSpecial || !isBelowSpecial(name) {
		return false
	}
	t := st.routes.find(name)
	return t == nil || t == st.routes.all
}

func isBelowSpecial(name []byte) bool {
	if suffixAt(name, localhost) >= 0 {
		return true
	}
	for _, suffix := range nowhere {
		if suffixAt(name, suffix) >= 0 {
			return true
		}
	}
	return false
}

// special answers special names.
func special(next Exchanger) Exchanger { return &specialStage{next: next} }

type specialStage struct{ next Exchanger }

func (s *specialStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	m := req.msg
	if !m.isTables() || !req.scope.isSpecial(req.scope.settings.Load(), []byte(m.name)) {
		return s.next.Exchange(ctx, req)
	}
	var w writer
	w.begin(nil, m.wire[:m.question], []byte(m.name))
	isFor := func(qtype uint16) bool { return m.qtype == qtype || m.qtype == dns.TypeANY }
	switch {
	case suffixAt(m.name, localhost) >= 0:
		if isFor(dns.TypeA) {
			w.put(dns.TypeA, defaultTTL, "\x7f\x00\x00\x01")
		}
		if isFor(dns.TypeAAAA) {
			w.put(dns.TypeAAAA, defaultTTL, string(net.IPv6loopback))
		}
	case slices.Contains(loopbacks, m.name):
		if isFor(dns.TypePTR) {
			w.put(dns.TypePTR, defaultTTL, string(localhost))
		}
	default:
		w.rcode = dns.RcodeNameError
	}
	if w.counts[inAnswer] == 0 {
		w.section = inAuthority
		w.putSOA(defaultTTL)
	}
	w.finish()
	own, err := w.parsed(m.name)
	if err != nil {
		return nil, err
	}
	return &Response{msg: own, from: fromTable, origin: "special name"}, nil
}
