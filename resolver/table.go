// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/miekg/dns"
)

const (
	// defaultTTL is short because the names of other clusters move with their
	// gateways, and a look-up here costs microseconds.
	defaultTTL = 30
	// maxPointers is how many names an address gives back: a block list that
	// maps a hundred thousand names to one address must not make a PTR answer of
	// megabytes.
	maxPointers = 16
	// maxEntry keeps every answer within one message over TCP, with room for a
	// chain of aliases before it.
	maxEntry = 60000
)

// Format is how a Source is written.
type Format int

// The formats of a Source.
const (
	FormatHosts Format = iota // hosts(5): an address and its names on each line
	FormatYAML                // the form of resolver/README.md
)

// Source is one file of names, already read.
type Source struct {
	Path   string // for messages
	Data   []byte
	Format Format
}

// Table is a set of names with their records. It never changes and may be shared.
type Table struct {
	entries map[wireName]*entry
	inOrder []*entry // those that files gave
	// between holds the names that exist only because something exists below
	// them (RFC 4592 section 2.2.2); they stop a wildcard, no more.
	between  map[wireName]struct{}
	warnings []string
}

// entry is one name of the table.
type entry struct {
	name    wireName
	place   place
	records []dns.RR
	ttl     uint32
	// pointers are the addresses that give this name back.
	pointers []netip.Addr
	derived  bool // a PTR name that no file gave
}

// place is a line of a source.
type place struct {
	path string
	line int
}

func (p place) String() string { return fmt.Sprintf("%s:%d", p.path, p.line) }

func (p place) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %w", p, fmt.Errorf(format, args...))
}

// ParseTable makes a table of files. Where two files give the same name the first
// one wins whole, and [Table.Warnings] says so. A mistake in any file fails it all:
// the error joins one "path:line: message" for each.
func ParseTable(sources ...Source) (*Table, error) {
	t := &Table{entries: make(map[wireName]*entry), between: make(map[wireName]struct{})}
	var errs []error
	for _, src := range sources {
		parsed, err := src.parse()
		errs = append(errs, err)
		t.merge(parsed)
	}
	for _, e := range t.inOrder {
		t.addBetween(e.name)
	}
	for _, e := range t.inOrder {
		errs = append(errs, e.checkSize(), t.checkAlias(e))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	t.addPointers()
	return t, nil
}

// parse returns the entries of one file in their order, also beside an error.
func (s Source) parse() ([]*entry, error) {
	switch s.Format {
	case FormatHosts:
		return parseHosts(s.Path, s.Data)
	case FormatYAML:
		return parseYAML(s.Path, s.Data)
	}
	return nil, fmt.Errorf("%s:1: unknown format %d", s.Path, s.Format)
}

func (t *Table) merge(parsed []*entry) {
	for _, e := range parsed {
		if first, ok := t.entries[e.name]; ok {
			t.warnings = append(t.warnings, fmt.Sprintf("%s: %s is already in %s, which wins", e.place, e.name, first.place))
			continue
		}
		t.entries[e.name] = e
		t.inOrder = append(t.inOrder, e)
	}
}

func (e *entry) checkSize() error {
	size := 0
	for _, rr := range e.records {
		size += dns.Len(rr)
	}
	if size > maxEntry {
		return e.place.errorf("%s has %d octets of records, more than %d", e.name, size, maxEntry)
	}
	return nil
}

// checkAlias refuses an alias that goes round, or through too many names.
func (t *Table) checkAlias(e *entry) error {
	at := e
	for range maxAliases {
		target, ok := at.alias()
		if !ok {
			return nil
		}
		if at = t.find(target); at == nil {
			return nil
		}
	}
	return e.place.errorf("%s: cname goes round, or through more than %d names", e.name, maxAliases)
}

// alias returns where the name's CNAME leads.
func (e *entry) alias() (wireName, bool) {
	if len(e.records) == 0 {
		return "", false
	}
	cname, ok := e.records[0].(*dns.CNAME)
	if !ok {
		return "", false
	}
	return fromRR(cname.Target), true
}

// addBetween notes the ancestors of a name.
func (t *Table) addBetween(name wireName) {
	for up := name.parent(); up != "" && up != rootName; up = up.parent() {
		if _, ok := t.between[up]; ok {
			return
		}
		t.between[up] = struct{}{}
	}
}

// find returns the entry that answers for a name: its own, or the wildcard at its
// closest encloser (RFC 4592 section 3.3.1).
func (t *Table) find(name wireName) *entry { return t.findWire([]byte(name)) }

// findWire is find for a name on the wire, in lower case. It allocates nothing: the
// compiler makes no strings for look-ups that are written like these.
func (t *Table) findWire(name []byte) *entry {
	if len(t.entries) == 0 || len(name) == 0 {
		return nil
	}
	if e, ok := t.entries[wireName(name)]; ok {
		return e
	}
	if _, ok := t.between[wireName(name)]; ok {
		return nil
	}
	var buf [len(wildLabel) + maxName]byte
	wild := buf[:copy(buf[:], wildLabel)]
	for up := name; up[0] != 0; {
		up = up[1+int(up[0]):]
		if e, ok := t.entries[wireName(append(wild, up...))]; ok {
			return e
		}
		_, named := t.entries[wireName(up)]
		_, between := t.between[wireName(up)]
		if named || between {
			return nil
		}
	}
	return nil
}

// holds reports whether the table answers for a name, or for what is left of it
// without one of the search suffixes.
func (t *Table) holds(name []byte, search suffixes) bool {
	if len(t.entries) == 0 {
		return false
	}
	if t.findWire(name) != nil {
		return true
	}
	var buf [maxName]byte
	for _, suffix := range search {
		if at := suffixAt(name, suffix); at > 0 {
			n := copy(buf[:], name[:at])
			buf[n] = 0
			if t.findWire(buf[:n+1]) != nil {
				return true
			}
		}
	}
	return false
}

// Names counts the names that the files gave, without derived PTR names.
func (t *Table) Names() int { return len(t.inOrder) }

// Warnings says, a sentence each with path and line, what a file gave that the
// table does not use.
func (t *Table) Warnings() []string { return append([]string(nil), t.warnings...) }

// fromRR is the name of a record that we built ourselves.
func fromRR(s string) wireName {
	name, err := parseName(s)
	if err != nil {
		return ""
	}
	return name
}

// header of a record of this table.
func header(name wireName, typ uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name.String(), Rrtype: typ, Class: dns.ClassINET, Ttl: ttl}
}

// addressRR is the A or AAAA record of an address.
func addressRR(name wireName, addr netip.Addr, ttl uint32) dns.RR {
	if addr.Is4() {
		return &dns.A{Hdr: header(name, dns.TypeA, ttl), A: addr.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(name, dns.TypeAAAA, ttl), AAAA: addr.AsSlice()}
}

// parseAddr reads an address that may stand in a record.
func parseAddr(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	case addr.Zone() != "":
		return netip.Addr{}, fmt.Errorf("address %q has a zone, which no record can carry", s)
	case addr.Is4In6():
		return netip.Addr{}, fmt.Errorf("address %q is IPv4 in disguise: write %s", s, addr.Unmap())
	}
	return addr, nil
}

// addressOf returns the address of an A or AAAA record.
func addressOf(rr dns.RR) (netip.Addr, bool) {
	switch rr := rr.(type) {
	case *dns.A:
		addr, ok := netip.AddrFromSlice(rr.A)
		return addr.Unmap(), ok
	case *dns.AAAA:
		return netip.AddrFromSlice(rr.AAAA)
	}
	return netip.Addr{}, false
}
