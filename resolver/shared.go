// SPDX-License-Identifier: Apache-2.0

package resolver

import "github.com/miekg/dns"

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
