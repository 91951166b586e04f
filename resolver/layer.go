// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// Names keeps what several sources say of names, each in a layer of its own, and makes
// one table of all. Of a name that several layers have the first layer's records
// count, and the others are hidden until it lets go.
//
// A change costs what it changes, not what there is. Servers follow; what they have
// kept of other names stays. Names is safe for concurrent use.
type Names struct {
	mu        sync.Mutex // held while a table is made
	layers    []*Layer
	table     atomic.Pointer[Table]
	followers map[*Server]struct{}
}

// NewNames makes a Names without layers.
func NewNames() *Names {
	n := &Names{followers: make(map[*Server]struct{})}
	n.table.Store(&Table{})
	return n
}

// Table is the table of this moment.
func (n *Names) Table() *Table { return n.table.Load() }

// AddLayer adds a layer behind those that are there.
func (n *Names) AddLayer(name string) *Layer {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &Layer{name: name, names: n, order: len(n.layers) + 1}
	n.layers = append(n.layers, l)
	return l
}

// Follow gives a server the table now and after every change, until stop is called.
func (n *Names) Follow(s *Server) (stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.followers[s] = struct{}{}
	s.SetTable(n.Table())
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.followers, s)
	}
}

// change makes the next table and gives it to the servers.
func (n *Names) change(edit func(*draft)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.Table().draft()
	d.changed = make(changes)
	edit(d)
	t := d.done()
	n.table.Store(t)
	changed := d.changed
	if len(changed) == 0 {
		changed = changes{"": {}} // where a record comes from is no news to a cache
	}
	if len(changed) > maxChanges {
		changed = nil
	}
	for s := range n.followers {
		s.replace(t, changed)
	}
}

// Layer is what one source says of names. Its source calls it from one goroutine.
type Layer struct {
	name  string
	names *Names
	order int // from 1; 0 is that of a table without layers
	// apexes are what the layer says; guarded by names.mu.
	apexes apexes
}

func (l *Layer) rank() int {
	if l == nil {
		return 0
	}
	return l.order
}

// Name is what AddLayer called it.
func (l *Layer) Name() string { return l.name }

// Hidden is one of the hidden names, in words, empty where there is none. It looks
// through the whole table.
func (l *Layer) Hidden() string {
	for e := range l.names.Table().names.all {
		if e.about == nil {
			continue
		}
		for _, h := range e.hidden {
			if h.from.layer == l {
				return fmt.Sprintf("%s of %s is already in %s, which wins", e.name, h.place(), e.place())
			}
		}
	}
	return ""
}

// Count counts the names that the layer has, and those among them that are hidden
// because an earlier layer has them too.
func (l *Layer) Count() (names, hidden int) {
	t := l.names.Table().tallies[l]
	return t.given, t.hidden
}

// Name is what one source says of one name. Without records the layer forgets it.
type Name struct {
	Name string
	TTL  uint32 // seconds
	From *Origin

	Addrs []netip.Addr
	// Pointers are those of Addrs that give the name back. A wildcard's cannot.
	Pointers []netip.Addr
	CNAME    string // alone, with no other records
	SRV      []SRV
	TXT      []string
	// Shared is a name that others know too: what it has of types that carry no
	// addresses is asked of them. That they do not know it is no data.
	Shared bool
}

// SRV is a record of that type (RFC 2782).
type SRV struct {
	Priority, Weight, Port uint16
	Target                 string
}

// Origin says where a record came from.
type Origin struct {
	layer *Layer
	path  string        // of a file
	words func() string // of anything else
}

// Origin makes an origin of this layer. Words is called whenever somebody asks for it,
// from any goroutine: it may tell an age.
func (l *Layer) Origin(words func() string) *Origin { return &Origin{layer: l, words: words} }

func (o *Origin) text() string {
	if o.words != nil {
		return o.words()
	}
	return o.path
}

// Apply changes what the layer says of some names, all at once. A name that cannot be
// one is left out, as are records that would not fit into a message, and the error
// says which.
func (l *Layer) Apply(changed iter.Seq[Name]) error {
	entries, err := l.entries(changed)
	l.names.change(func(d *draft) { l.apply(d, entries) })
	return err
}

// Replace changes all that the layer says, at once. It is Apply but for names that are
// not among all: those are forgotten.
func (l *Layer) Replace(all iter.Seq[Name]) error {
	entries, err := l.entries(all)
	l.names.change(func(d *draft) { l.replace(d, entries) })
	return err
}

// SetFiles changes all that the layer says, authorities too, to what files do, as [ParseTable] reads
// them; a mistake in any of them changes nothing. It returns the warnings.
func (l *Layer) SetFiles(sources ...Source) (warnings []string, err error) {
	read, err := parse(sources)
	if err != nil {
		return nil, err
	}
	for _, e := range read.order {
		e.from.layer = l
	}
	l.names.change(func(d *draft) {
		before := d.Table
		if others := before.given - before.tallies[l].given; others <= len(read.order) {
			l.rebuild(d, read)
		} else {
			for _, e := range read.order {
				e.about = nil
			}
			l.replace(d, read.order)
		}
		l.setApexes(d, read.declared)
		d.changed = difference(&before, &d.Table)
	})
	return read.warnings, nil
}

// rebuild is replace for a layer that has most of all names: the draft becomes that of the
// files, with what the others say besides. A name that says the same is made anew too, for
// its line is not, and nothing is held of the files as they were.
func (l *Layer) rebuild(d, read *draft) {
	before := d.Table
	*d = *read
	d.warnings = before.warnings
	d.tallies = map[*Layer]tally{l: {given: len(d.order)}}
	if before.given == before.tallies[l].given {
		d.addAllPointers(d.order)
		return
	}
	others := before.besides(l)
	d.later = true
	for _, e := range others {
		d.put(e)
	}
	d.later = false
	addrs := newBulk[reverse](len(d.order))
	// What gave names back does so in the order that it had, before what does from now on.
	for r := range before.addrs.all {
		d.keepPointers(&addrs, r, l)
	}
	for _, e := range others {
		if at := d.lookup(e.name); at.from.layer == e.from.layer && before.lookup(e.name).from.layer == l {
			d.gatherPointers(&addrs, at)
		}
	}
	for _, e := range d.order {
		if at := d.lookup(e.name); at.from.layer == l {
			d.gatherPointers(&addrs, at)
		}
	}
	d.addrs = addrs.trie(d.by)
}

// besides is all that the layers but one say, to be changed.
func (t *Table) besides(l *Layer) (all []*entry) {
	add := func(e *entry) {
		if e.from.layer != l {
			mine := *e
			mine.about = nil
			all = append(all, &mine)
		}
	}
	for e := range t.names.all {
		if !e.isGiven() {
			continue
		}
		add(e)
		if e.about != nil {
			for _, h := range e.hidden {
				add(h)
			}
		}
	}
	return all
}

func (l *Layer) replace(d *draft, entries []*entry) {
	stay := make(map[wireName]bool, len(entries))
	for _, e := range entries {
		stay[e.name] = true
	}
	var gone []*entry
	for e := range d.names.all {
		if e.isGiven() && !stay[e.name] && slices.ContainsFunc(e.layers(), func(e *entry) bool { return e.from.layer == l }) {
			gone = append(gone, &entry{name: e.name})
		}
	}
	l.apply(d, gone)
	l.apply(d, entries)
}

func (l *Layer) apply(d *draft, entries []*entry) {
	for _, e := range entries {
		if e.records == "" {
			d.drop(e.name, l)
		} else {
			d.put(e)
		}
	}
}

// entries packs names.
func (l *Layer) entries(names iter.Seq[Name]) (entries []*entry, err error) {
	var errs []error
	for n := range names {
		e, err := l.entry(&n)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.name, err))
		}
		if e != nil {
			entries = append(entries, e)
		}
	}
	return entries, errors.Join(errs...)
}

func (l *Layer) entry(n *Name) (*entry, error) {
	name, err := parseWild(n.Name)
	if err != nil {
		return nil, err
	}
	e := &entry{name: name, ttl: min(n.TTL, maxTTL), from: n.From, shared: n.Shared}
	packed, err := n.pack(name)
	if packed != "" {
		// One piece of memory has room to spare less often than two.
		both := string(name) + string(packed)
		e.name, e.records = wireName(both[:len(name)]), records(both[len(name):])
	}
	return e, err
}

// pack packs the records of a name, as many as fit into a message.
func (n *Name) pack(name wireName) (records, error) {
	if n.CNAME != "" {
		target, err := parseName(n.CNAME)
		if err != nil {
			return "", fmt.Errorf("%s: cname: %w", n.Name, err)
		}
		return records(appendCNAME(nil, target)), nil
	}
	p := packer{owner: len(name), room: maxEntry}
	for _, addr := range n.Addrs {
		if addr = addr.Unmap().WithZone(""); addr.IsValid() {
			p.add(appendAddress(p.packed, addr, slices.Contains(n.Pointers, addr) && !name.isWild()), addr.BitLen()/8)
		}
	}
	var errs []error
	for _, srv := range n.SRV {
		target, err := parseName(srv.Target)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: srv: %w", n.Name, err))
			continue
		}
		p.add(appendSRV(p.packed, name, srv.Priority, srv.Weight, srv.Port, target), srvFixed+len(target))
	}
	for _, text := range n.TXT {
		grown := appendTXT(p.packed, text[:min(len(text), maxEntry)])
		p.add(grown, len(grown)-len(p.packed)-3)
	}
	if p.left > 0 {
		errs = append(errs, fmt.Errorf("%s: %d records left out: the others fill a message", n.Name, p.left))
	}
	return records(p.packed), errors.Join(errs...)
}

// packer packs records until a message is full.
type packer struct {
	packed []byte
	owner  int // octets of the name
	room   int
	left   int // records left out
}

// add takes what has grown by one record, with so many octets of RDATA.
func (p *packer) add(grown []byte, rdata int) {
	octets := p.owner + 10 + rdata
	if octets > p.room {
		p.left++
		return
	}
	p.room -= octets
	p.packed = grown
}
