// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
	"net/netip"
)

const (
	// defaultTTL is short because the names of other clusters move with their
	// gateways, and a look-up here costs microseconds.
	defaultTTL = 30
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

// Table is a set of names with their records. It never changes and may be shared:
// one with other names shares with it what is the same in both (draft.go).
type Table struct {
	names *node[*entry]
	addrs *node[reverse] // what addresses give back
	given int            // names that a source gave
	// wilds counts wildcards: without any nobody looks for them. splitArpa counts those,
	// and apexes, below arpa, for which what addresses give back has parents too.
	wilds, splitArpa int
	apexes           apexes // of what the table is the authority of
	// parents is set from the first wildcard or apex on: names holds those too that exist
	// only because of what is below them, and every name knows what is.
	parents  bool
	tallies  map[*Layer]tally
	warnings []string
}

// tally counts the names of a layer, and those among them that are hidden.
type tally struct{ given, hidden int }

// entry is one name of the table. It never changes but by the edit that made it.
type entry struct {
	name wireName
	records
	// from is who gave the name, nil if nobody did and it has only names below it
	// (RFC 4592 section 2.2.2): those stop a wildcard, no more.
	from *Origin
	line uint32 // of the file, from 1
	ttl  uint32
	// shared is that of Name.
	shared bool
	*about
}

// about is what few entries need.
type about struct {
	by    *edit // whose it is
	below int   // names one label longer
	wild  bool  // "*" is one of them
	// hidden is what later layers say of the name, in their order.
	hidden []*entry
}

func (e *entry) key() string { return string(e.name) }

// isGiven reports whether a source gave the name.
func (e *entry) isGiven() bool { return e != nil && e.from != nil }

// place says where an entry comes from.
func (e *entry) place() string {
	return placeOf(e.from, e.line)
}

func placeOf(from *Origin, line uint32) string {
	text := from.text()
	if line > 0 {
		return fmt.Sprintf("%s:%d", text, line)
	}
	return text
}

func (e *entry) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %w", e.place(), fmt.Errorf(format, args...))
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
	d, err := parse(sources)
	if err != nil {
		return nil, err
	}
	d.addAllPointers(d.order)
	d.setApexes(d.declared)
	return d.done(), nil
}

// parse makes a draft of files, without what their addresses give back.
func parse(sources []Source) (*draft, error) {
	d := new(Table).draft()
	var errs []error
	for _, src := range sources {
		errs = append(errs, d.read(src))
	}
	d.addGathered()
	for _, e := range d.order {
		if err := e.checkSize(); err != nil {
			errs = append(errs, err)
		}
		if err := d.checkAlias(e); err != nil {
			errs = append(errs, err)
		}
	}
	return d, errors.Join(errs...)
}

// read adds one file.
func (d *draft) read(src Source) error {
	switch src.Format {
	case FormatHosts:
		return d.readHosts(src.Path, src.Data)
	case FormatYAML:
		return d.readYAML(src.Path, src.Data)
	}
	return fmt.Errorf("%s:1: unknown format %d", src.Path, src.Format)
}

// offer adds the first entry of a file for a name, unless an earlier file has it.
func (d *draft) offer(at **entry, e *entry) {
	if (*at).isGiven() {
		d.warnings = append(d.warnings, fmt.Sprintf("%s: %s is already in %s, which wins", e.place(), e.name, (*at).place()))
		return
	}
	*at = e
	d.order = append(d.order, e)
}

func (e *entry) checkSize() error {
	if size := e.octets(); size > maxEntry {
		return e.errorf("%s has %d octets of records, more than %d", e.name, size, maxEntry)
	}
	return nil
}

// checkAlias refuses an alias that goes round, or through too many names.
func (t *Table) checkAlias(e *entry) error {
	at := hit{entry: e}
	for range maxAliases {
		target, ok := at.alias()
		if !ok {
			return nil
		}
		at = t.find([]byte(target))
	}
	return e.errorf("%s: cname goes round, or through more than %d names", e.name, maxAliases)
}

// lookup returns the entry of a name itself, given or not.
func (t *Table) lookup(name wireName) *entry {
	var buf [len(wildLabel) + maxName]byte
	return t.names.find(buf[:copy(buf[:], name)])
}

// hit is what a table has for a name: an entry, or what an address gives back, or
// nothing. Two of them are equal if they are of one table and the same.
type hit struct {
	entry   *entry
	reverse reverse
	// apex is the closest one at or above a name of which there is nothing, nil outside of
	// any. Exists tells whether such a name has others below it, or is the apex.
	apex   *apex
	exists bool
}

func (h hit) ok() bool { return h.entry != nil || h.reverse != nil }

// place says where it comes from; what an address gives back comes with its first name.
func (h hit) place(t *Table) string {
	if !h.ok() {
		return h.apex.place()
	}
	if h.entry == nil {
		return t.lookup(h.reverse.pointer(0).name).place()
	}
	return h.entry.place()
}

// alias returns where the name's CNAME leads.
func (h hit) alias() (wireName, bool) {
	if h.entry == nil {
		return "", false
	}
	return h.entry.alias()
}

// ttl is the TTL of the name's records.
func (h hit) ttl() uint32 {
	if h.entry == nil {
		return h.reverse.pointer(0).ttl
	}
	return h.entry.ttl
}

// find returns what answers for a name: its own entry, what its address gives back,
// or the wildcard at its closest encloser (RFC 4592 section 3.3.1). It allocates nothing.
func (t *Table) find(name []byte) hit {
	h := t.findRecords(name)
	if h.ok() {
		return h
	}
	if h.apex = t.apexes.find(name); h.apex != nil {
		h.exists = len(name) == len(h.apex.name) || t.names.find(name) != nil
	}
	return h
}

// findRecords is find without apexes.
func (t *Table) findRecords(name []byte) hit {
	if t.names == nil || len(name) == 0 {
		return hit{}
	}
	e := t.names.find(name)
	if e.isGiven() {
		return hit{entry: e}
	}
	if r := t.reverse(name); r != nil {
		return hit{reverse: r}
	}
	if e != nil || t.wilds == 0 {
		return hit{}
	}
	return t.findWild(name)
}

// findWild looks for the wildcard at the closest encloser of a name that does not
// exist.
func (t *Table) findWild(name []byte) hit {
	for up := name; up[0] != 0; {
		up = up[1+int(up[0]):]
		e := t.names.find(up)
		switch {
		case e == nil && t.reverse(up) == nil:
			continue
		case e == nil || e.about == nil || !e.wild:
			return hit{}
		}
		var buf [len(wildLabel) + maxName]byte
		wild := append(buf[:copy(buf[:], wildLabel)], up...)
		return hit{entry: t.names.find(wild)}
	}
	return hit{}
}

// Names counts the names that the sources gave, without derived PTR names.
func (t *Table) Names() int { return t.given }

// Warnings says, a sentence each with path and line, what a file gave that the
// table does not use.
func (t *Table) Warnings() []string { return append([]string(nil), t.warnings...) }

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
