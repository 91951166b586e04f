// SPDX-License-Identifier: Apache-2.0

package resolver

import "github.com/miekg/dns"

// key is a question with everything that changes its answer. Equal keys may share
// an answer; whatever has no key is asked by itself, each time.
type key struct {
	set           set // who is asked
	name          wireName
	qtype, qclass uint16
	// bits are RD, AD and CD of the header and, in their own places, DO, keyEDNS and
	// keyTCP. AD in a query asks for AD in the answer (RFC 6840 section 5.7).
	bits uint16
}

const (
	// keyBits are the header bits that may be set in a query with a key.
	keyBits = bitRD | bitAD | bitCD
	// keyEDNS says that there is an OPT record: without one a server leaves out
	// what it has to say about errors, and what does not fit into 512 octets.
	keyEDNS = 1
	// keyTCP is for what is of one transport alone, see own.
	keyTCP = 2
)

// newKey returns the key of a request, false if it has none: other operations than
// QUERY, transfers, signatures, client subnets (RFC 7871), and every option and
// flag whose meaning is the server's to know.
func newKey(to set, req *Request) (key, bool) {
	m := req.msg
	extra := 0
	bits := m.flags()
	if bits&^keyBits != 0 || m.signed || m.count(countQD) != 1 || !mayShare(m.qtype, m.qclass) {
		return key{}, false
	}
	if req.edns != nil {
		if req.edns.flags&^doBit != 0 || len(req.edns.passed()) > 0 {
			return key{}, false
		}
		bits |= req.edns.flags | keyEDNS
		extra = 1
	}
	if len(m.records) != extra {
		return key{}, false
	}
	return key{set: to, name: m.name, qtype: m.qtype, qclass: m.qclass, bits: bits}, true
}

// mayShare refuses types that are questions or transactions and no data, but ANY
// (RFC 6895 section 3.1), and classes that are none.
func mayShare(qtype, qclass uint16) bool {
	if qtype == dns.TypeNone || qtype == dns.TypeOPT || qtype >= firstMeta && qtype < dns.TypeANY {
		return false
	}
	return qclass != 0 && qclass != dns.ClassNONE && qclass != dns.ClassANY
}

// firstMeta begins the range of Q and meta types; it ends with ANY.
const firstMeta = 128
