// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"maps"
	"slices"
)

// draft is a table in the making. What it does not touch it shares with the table
// that it began with.
type draft struct {
	Table
	by *edit
	// fresh drafts began with nothing: every entry is theirs to change.
	fresh bool
	// changed are the names of which the table says something new, wildcards by
	// their parent, nil where nobody wants to know.
	changed changes
	// later tells that what addresses give back is added when all names are there.
	later bool
	// gathered are the names of files while those are read, order those that won, as they
	// stand there, and declared the apexes.
	gathered bulk[*entry]
	order    []*entry
	declared apexes
}

func (t *Table) draft() *draft {
	d := &draft{Table: *t, by: new(edit), fresh: t.names == nil}
	if d.tallies = maps.Clone(t.tallies); d.tallies == nil {
		d.tallies = make(map[*Layer]tally)
	}
	return d
}

// done is the table; the draft is of no use any more.
func (d *draft) done() *Table {
	t := d.Table
	return &t
}

// put makes an entry what its layer says of its name.
func (d *draft) put(e *entry) {
	at := d.lookup(e.name)
	if !at.isGiven() {
		d.add(e)
		d.addPointers(e)
		return
	}
	said := at.layers()
	i, ok := slices.BinarySearchFunc(said, e.from.layer, byLayer)
	if ok {
		if said[i].isSame(e) {
			return
		}
		said[i] = e
	} else {
		said = slices.Insert(said, i, e)
		d.count(e, tally{given: 1})
	}
	d.settle(at, said)
}

// drop forgets what a layer says of a name.
func (d *draft) drop(name wireName, layer *Layer) {
	at := d.lookup(name)
	if !at.isGiven() {
		return
	}
	said := at.layers()
	i, ok := slices.BinarySearchFunc(said, layer, byLayer)
	if !ok {
		return
	}
	d.count(said[i], tally{given: -1})
	d.settle(at, slices.Delete(said, i, i+1))
}

func (d *draft) count(e *entry, n tally) {
	was := d.tallies[e.from.layer]
	d.tallies[e.from.layer] = tally{was.given + n.given, was.hidden + n.hidden}
}

// layers are what all layers say of a given name, in their order.
func (e *entry) layers() []*entry {
	said := []*entry{e}
	if e.about != nil {
		said = append(said, e.hidden...)
	}
	return said
}

// isSame reports whether an entry would change nothing.
func (e *entry) isSame(other *entry) bool {
	return e.records == other.records && e.ttl == other.ttl && e.shared == other.shared && e.from == other.from && e.line == other.line
}

func byLayer(e *entry, l *Layer) int { return e.from.layer.rank() - l.rank() }

// add gives a name that had no records its first ones, without what its addresses
// give back.
func (d *draft) add(e *entry) {
	names, at := d.names.slot(d.by, []byte(e.name))
	d.names = names
	isNew := *at == nil
	if !isNew {
		e.about = (*at).about // what is below it stays
	}
	*at = e
	if isNew && d.parents {
		d.addChild(e.name)
	}
	d.given++
	d.count(e, tally{given: 1})
	if e.name.isWild() {
		d.countWild(e.name, 1)
	}
	d.changed.add(e.name)
}

// addGathered adds the names of files to a table without any, when all are read, but not
// what their addresses give back.
func (d *draft) addGathered() {
	d.names = d.gathered.trie(d.by)
	d.gathered = bulk[*entry]{}
	d.given = len(d.order)
	d.tallies[nil] = tally{given: d.given}
	for _, e := range d.order {
		if e.name.isWild() {
			d.countWild(e.name, 1)
		}
	}
}

// settle makes said all that there is of a name: its first entry counts.
func (d *draft) settle(at *entry, said []*entry) {
	for _, e := range at.layers()[1:] {
		d.count(e, tally{hidden: -1})
	}
	if len(said) == 0 {
		d.remove(at)
		return
	}
	top := *said[0]
	top.about = nil
	if at.about != nil {
		top.about = &about{by: d.by, below: at.below, wild: at.wild}
	}
	if hidden := said[1:]; len(hidden) > 0 {
		if top.about == nil {
			top.about = &about{by: d.by}
		}
		top.hidden = hidden
		for i, e := range hidden {
			d.count(e, tally{hidden: 1})
			plain := *e
			plain.about = nil
			hidden[i] = &plain
		}
	}
	d.names = d.names.put(d.by, &top)
	if !at.says(&top) {
		d.changed.add(top.name)
	}
	// Even those that stay the same: they may hold on to the entry.
	d.dropPointers(at)
	d.addPointers(&top)
}

// remove takes the records of a name away. The name stays if others are below it.
func (d *draft) remove(e *entry) {
	d.given--
	if e.name.isWild() {
		d.countWild(e.name, -1)
	}
	d.changed.add(e.name)
	d.dropPointers(e)
	// Its pointers may have been below it.
	if e = d.lookup(e.name); e.about != nil && e.below > 0 {
		d.names = d.names.put(d.by, &entry{name: e.name, about: &about{by: d.by, below: e.below, wild: e.wild}})
		return
	}
	d.names = d.names.drop(d.by, []byte(e.name))
	if d.parents {
		d.dropChild(e.name)
	}
}

// makeParents lets all names that there are tell those above.
func (d *draft) makeParents() {
	d.parents = true
	all := make([]wireName, 0, d.given)
	for e := range d.names.all {
		all = append(all, e.name)
	}
	for _, name := range all {
		d.addChild(name)
	}
}

// addChild tells the name above that there is one more below it. It makes those
// above exist that did not.
func (d *draft) addChild(name wireName) {
	up := name.parent()
	if up == "" || up == rootName {
		return
	}
	names, at := d.names.slot(d.by, []byte(up))
	d.names = names
	if *at == nil {
		*at = &entry{name: up, about: &about{by: d.by, below: 1, wild: name.isWild()}}
		d.addChild(up)
		return
	}
	a := d.ownAbout(at)
	a.below++
	a.wild = a.wild || name.isWild()
}

// dropChild tells the name above that there is one less below it. Those end that
// existed for nothing else.
func (d *draft) dropChild(name wireName) {
	up := name.parent()
	if up == "" || up == rootName {
		return
	}
	names, at := d.names.slot(d.by, []byte(up))
	d.names = names
	a := d.ownAbout(at)
	a.below--
	a.wild = a.wild && !name.isWild()
	if a.below == 0 && !(*at).isGiven() {
		d.names = d.names.drop(d.by, []byte(up))
		d.dropChild(up)
	}
}

// ownAbout is the about of the entry in a slot, for this edit to change.
func (d *draft) ownAbout(at **entry) *about {
	e := *at
	if e.about != nil && e.by == d.by {
		return e.about
	}
	if !d.fresh {
		mine := *e
		e, *at = &mine, &mine
	}
	old := e.about
	e.about = new(about)
	if old != nil {
		*e.about = *old
	}
	e.by = d.by
	return e.about
}

// changes is a set of names.
type changes map[wireName]struct{}

func (c changes) add(name wireName) {
	if c == nil || len(c) > maxChanges {
		return // nobody asks for so many
	}
	if name.isWild() {
		name = name.parent()
	}
	c[name] = struct{}{}
}

// touch reports whether a name, or one above it, has changed.
func (c changes) touch(name wireName) bool {
	for ; name != ""; name = name.parent() {
		if _, ok := c[name]; ok {
			return true
		}
	}
	return false
}
