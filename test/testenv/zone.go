// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// chainLimit ends a loop of CNAME records in a zone; no sane chain is longer.
const chainLimit = 8

// zone is the content of a zone file, by lower-case name.
type zone struct {
	origin string
	names  map[string][]dns.RR
}

// Zone is a handler that knows the records of a zone file and nothing else:
// names that are not in text do not exist. It follows CNAME records inside the
// zone. Relative names end in origin; records need no TTL.
func Zone(tb testing.TB, origin, text string) dns.Handler {
	tb.Helper()
	z := zone{origin: dns.Fqdn(origin), names: map[string][]dns.RR{}}
	parser := dns.NewZoneParser(strings.NewReader(text), z.origin, "zone of "+origin)
	parser.SetDefaultTTL(answerTTL)
	for rr, ok := parser.Next(); ok; rr, ok = parser.Next() {
		name := strings.ToLower(rr.Header().Name)
		z.names[name] = append(z.names[name], rr)
	}
	if err := parser.Err(); err != nil {
		tb.Fatalf("parse zone: %v", err)
	}
	return dns.HandlerFunc(z.serve)
}

func (z zone) serve(w dns.ResponseWriter, r *dns.Msg) {
	m := reply(r)
	if len(r.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
		send(w, r, m)
		return
	}
	q := r.Question[0]
	var found bool
	m.Answer, found = z.lookup(q.Name, q.Qtype, chainLimit)
	if !found {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{soa(z.origin)}
	}
	send(w, r, m)
}

// lookup returns the records of the asked type, behind the CNAME records that
// lead to them, and whether the last name exists.
func (z zone) lookup(name string, qtype uint16, limit int) (records []dns.RR, found bool) {
	all, found := z.names[strings.ToLower(name)]
	for _, rr := range all {
		if rr.Header().Rrtype == qtype {
			records = append(records, rr)
		}
	}
	if len(records) > 0 || limit == 0 {
		return records, found
	}
	for _, rr := range all {
		if alias, ok := rr.(*dns.CNAME); ok {
			behind, exists := z.lookup(alias.Target, qtype, limit-1)
			return append([]dns.RR{rr}, behind...), exists
		}
	}
	return nil, found
}
