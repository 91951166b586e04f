// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"net/netip"

	"github.com/miekg/dns"
)

// addPointers derives PTR records from the addresses of the table, in the order of
// the files. The parsers have left out what gives no name back: wildcards and the
// aliases of a hosts line.
func (t *Table) addPointers() {
	for _, e := range t.inOrder {
		for _, addr := range e.pointers {
			t.addPointer(e, addr)
		}
	}
}

func (t *Table) addPointer(e *entry, addr netip.Addr) {
	// Block lists give the unspecified address to names that they take away.
	if addr.IsUnspecified() {
		return
	}
	reverse, err := dns.ReverseAddr(addr.String())
	if err != nil {
		return
	}
	name := fromRR(reverse)
	at, ok := t.entries[name]
	if !ok {
		at = &entry{name: name, place: e.place, ttl: e.ttl, derived: true}
		t.entries[name] = at
		t.addBetween(name)
	}
	// A reverse name that a file gives is that file's to fill.
	if !at.derived || len(at.records) >= maxPointers {
		return
	}
	at.records = append(at.records, &dns.PTR{Hdr: header(name, dns.TypePTR, e.ttl), Ptr: e.name.String()})
}
