// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"

	"github.com/miekg/dns"
)

// isElsewhere reports whether others are asked for a type: for shared names, all types
// but those of addresses, and those that carry addresses beside (RFC 9460).
func (h hit) isElsewhere(qtype uint16) bool {
	if h.entry == nil || !h.entry.shared {
		return false
	}
	switch qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeANY:
		return false
	}
	return true
}

// elsewhere asks on for a type of a shared name. The table knows that the name exists, so
// those who do not know it say only that they have nothing of it (RFC 2308 section 2.2).
func (a *answer) elsewhere(ctx context.Context, next Exchanger, at hit) (*Response, error) {
	req, name := a.req, fromRR(a.name)
	if len(a.rrs) > 0 {
		req = a.req.derive(name)
	}
	res, err := next.Exchange(ctx, req)
	switch {
	case err != nil:
		return nil, err
	case res.msg.rcode() == dns.RcodeNameError:
		none, err := a.message(dns.RcodeSuccess, []dns.RR{a.soa(at)})
		if err != nil {
			return nil, err
		}
		none.origin += ", then " + res.origin
		return none, nil
	case len(a.rrs) > 0:
		return a.followed(res, name)
	}
	return res, nil
}
