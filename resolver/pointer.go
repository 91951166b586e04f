// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"net"
	"slices"
	"strconv"
)

// maxPointers is how many names an address gives back: a block list that maps a
// hundred thousand names to one address must not make a PTR answer of megabytes.
// Those beyond are not remembered.
const maxPointers = 16

// reverse is what an address gives back: PTR records that no source wrote. The
// sources say which addresses do; wildcards and the aliases of a hosts line do not.
// It never changes. Nil is nothing.
type reverse interface {
	key() string // the address, four octets or sixteen
	count() int
	pointer(i int) pointer
}

// sole4 and sole6 are the reverse of the only address of their family that an entry lets
// give its name back, where no other name does so. Most are such: half a million
// endpoints need no octet more for it.
type (
	sole4 entry
	sole6 entry
)

func (s *sole4) key() string         { addr, _ := (*entry)(s).pointing(kindA); return addr }
func (s *sole4) count() int          { return 1 }
func (s *sole4) pointer(int) pointer { return (*entry)(s).pointer() }

func (s *sole6) key() string         { addr, _ := (*entry)(s).pointing(kindAAAA); return addr }
func (s *sole6) count() int          { return 1 }
func (s *sole6) pointer(int) pointer { return (*entry)(s).pointer() }

// common is the reverse of all other addresses.
type common struct {
	addr string
	name pointer
	rest *[]pointer // nil if there is one name
}

func (c *common) key() string { return c.addr }

func (c *common) count() int {
	if c.rest == nil {
		return 1
	}
	return 1 + len(*c.rest)
}

func (c *common) pointer(i int) pointer {
	if i == 0 {
		return c.name
	}
	return (*c.rest)[i-1]
}

// newReverse makes the reverse of an address whose names an entry is not alone to give.
func newReverse(addr string, all []pointer) reverse {
	c := &common{addr: addr, name: all[0]}
	if len(all) > 1 {
		rest := slices.Clone(all[1:])
		c.rest = &rest
	}
	return c
}

// reverseOf makes the reverse of an address of an entry, which is alone to give it a name.
func (e *entry) reverseOf(addr string) reverse {
	switch _, n := e.pointing(addressKind(len(addr))); {
	case n > 1:
		return &common{addr: addr, name: e.pointer()}
	case len(addr) == net.IPv4len:
		return (*sole4)(e)
	default:
		return (*sole6)(e)
	}
}

// pointing is the first address of a kind that gives the entry's name back, and how many
// there are.
func (e *entry) pointing(kind byte) (addr string, n int) {
	for k, rdata := range e.records.each {
		if k == kind|kindPointer {
			if n == 0 {
				addr = rdata
			}
			n++
		}
	}
	return addr, n
}

// givesBack yields the addresses that give the entry's name back. Block lists give the
// unspecified address to names that they take away.
func (e *entry) givesBack(yield func(addr string) bool) {
	for kind, addr := range e.records.each {
		if kind&kindPointer != 0 && !isUnspecified(addr) && !yield(addr) {
			return
		}
	}
}

func pointersOf(r reverse) (all []pointer) {
	if r == nil {
		return nil
	}
	for i := range r.count() {
		all = append(all, r.pointer(i))
	}
	return all
}

// pointer is one name that an address gives back.
type pointer struct {
	name  wireName
	ttl   uint32
	layer uint32 // its rank
}

func (e *entry) pointer() pointer {
	return pointer{name: e.name, ttl: e.ttl, layer: uint32(e.from.layer.rank())}
}

// arpa is above all names that addresses give back.
const arpa = wireName("\x04arpa\x00")

var (
	arpa4 = []byte("\x07in-addr\x04arpa\x00")
	arpa6 = []byte("\x03ip6\x04arpa\x00")
)

// reverse returns what the address gives back whose reverse name is asked for.
func (t *Table) reverse(name []byte) reverse {
	if t.addrs == nil {
		return nil
	}
	var buf [16]byte
	n := addressIn(&buf, name)
	if n == 0 {
		return nil
	}
	return t.addrs.find(buf[:n])
}

// addressIn reads the address out of a reverse name (RFC 1035 section 3.5, RFC 3596
// section 2.5) and returns its length, 0 if it is none, or written in another way.
func addressIn(addr *[16]byte, name []byte) int {
	if digits, ok := bytes.CutSuffix(name, arpa4); ok {
		return octetsIn(addr, digits)
	}
	digits, ok := bytes.CutSuffix(name, arpa6)
	if !ok || len(digits) != 2*2*len(addr) {
		return 0
	}
	for i := range 2 * len(addr) {
		nibble := bytes.IndexByte(hexDigits, digits[2*i+1])
		if digits[2*i] != 1 || nibble < 0 {
			return 0
		}
		at := &addr[len(addr)-1-i/2]
		if i%2 == 0 {
			*at = byte(nibble)
		} else {
			*at |= byte(nibble) << 4
		}
	}
	return len(addr)
}

var hexDigits = []byte("0123456789abcdef")

// octetsIn reads four labels of decimal digits, the last octet first.
func octetsIn(addr *[16]byte, labels []byte) int {
	for i := 3; i >= 0; i-- {
		if len(labels) == 0 || labels[0] > 3 {
			return 0
		}
		n := 1 + int(labels[0])
		octet := 0
		for _, c := range labels[1:n] {
			if c < '0' || c > '9' {
				return 0
			}
			octet = 10*octet + int(c-'0')
		}
		if octet > 255 || n > 2 && labels[1] == '0' {
			return 0
		}
		addr[i] = byte(octet)
		labels = labels[n:]
	}
	if len(labels) > 0 {
		return 0
	}
	return 4
}

// reverseName is the name under which an address is asked for.
func reverseName(addr string) wireName {
	var b []byte
	for i := len(addr) - 1; i >= 0; i-- {
		if len(addr) == 4 {
			at := len(b)
			b = strconv.AppendUint(append(b, 0), uint64(addr[i]), 10)
			b[at] = byte(len(b) - at - 1)
			continue
		}
		b = append(b, 1, hexDigits[addr[i]&0xf], 1, hexDigits[addr[i]>>4])
	}
	if len(addr) == 4 {
		return wireName(append(b, arpa4...))
	}
	return wireName(append(b, arpa6...))
}

// addPointers lets the addresses of an entry give its name back, behind the names of
// earlier layers.
func (d *draft) addPointers(e *entry) {
	if d.later {
		return
	}
	for addr := range e.givesBack {
		addrs, slot := d.addrs.slot(d.by, []byte(addr))
		d.addrs = addrs
		d.addPointer(slot, addr, e)
	}
}

// addAllPointers is addPointers for all names of a table.
func (d *draft) addAllPointers(all []*entry) {
	addrs := newBulk[reverse](len(all))
	for _, e := range all {
		d.gatherPointers(&addrs, e)
	}
	d.addrs = addrs.trie(d.by)
}

// gatherPointers is addPointers for addresses that are yet to be made a trie.
func (d *draft) gatherPointers(addrs *bulk[reverse], e *entry) {
	for addr := range e.givesBack {
		d.addPointer(addrs.slot([]byte(addr)), addr, e)
	}
}

// keepPointers lets an address give back what it did in another table, but for names that
// one layer gave, or that others hide now.
func (d *draft) keepPointers(addrs *bulk[reverse], was reverse, but *Layer) {
	for i := range was.count() {
		p := was.pointer(i)
		if p.layer == uint32(but.rank()) {
			continue
		}
		e := d.lookup(p.name)
		if uint32(e.from.layer.rank()) != p.layer {
			continue
		}
		for addr := range e.givesBack { // that of its own memory
			if addr == was.key() {
				d.addPointer(addrs.slot([]byte(addr)), addr, e)
			}
		}
	}
}

// addPointer lets an address, whose slot it is, give the name of an entry back.
func (d *draft) addPointer(slot *reverse, addr string, e *entry) {
	if *slot == nil {
		*slot = e.reverseOf(addr)
		d.pointersChanged(addr, 1)
		return
	}
	p := e.pointer()
	all := pointersOf(*slot)
	at := len(all)
	for at > 0 && all[at-1].layer > p.layer {
		at--
	}
	if at >= maxPointers {
		return
	}
	all = slices.Insert(all, at, p)
	*slot = newReverse(addr, all[:min(len(all), maxPointers)])
	d.pointersChanged(addr, 0)
}

// dropPointers undoes addPointers.
func (d *draft) dropPointers(e *entry) {
	if d.later {
		return
	}
	for addr := range e.givesBack {
		old := d.addrs.find([]byte(addr))
		left := slices.DeleteFunc(pointersOf(old), func(p pointer) bool { return p.name == e.name })
		switch {
		case old == nil: // all its names were beyond the last
		case len(left) > 0:
			d.addrs = d.addrs.put(d.by, newReverse(addr, left))
			d.pointersChanged(addr, 0)
		default:
			d.addrs = d.addrs.drop(d.by, []byte(addr))
			d.pointersChanged(addr, -1)
		}
	}
}

func isUnspecified(addr string) bool {
	for i := range len(addr) {
		if addr[i] != 0 {
			return false
		}
	}
	return true
}

// pointersChanged notes that an address gives other names back, and whether it began
// or ceased to.
func (d *draft) pointersChanged(addr string, began int) {
	if d.changed == nil && d.splitArpa == 0 {
		return
	}
	name := reverseName(addr)
	d.changed.add(name)
	switch {
	case d.splitArpa == 0:
	case began > 0:
		d.addChild(name)
	case began < 0:
		d.dropChild(name)
	}
}

// countWild counts wildcards.
func (d *draft) countWild(name wireName, n int) {
	d.wilds += n
	d.countSplit(name, n)
}

// countSplit counts wildcards and apexes. Only if there are any it matters which names lie
// below others: the first one makes those above all names exist, and they stay, so that a
// source whose wildcards come and go pays for it once. Only one below arpa cares which
// reverse names lie below others: the first makes those above them exist, the last lets
// them go.
func (d *draft) countSplit(name wireName, n int) {
	if !d.parents {
		d.makeParents()
	}
	if !name.isBelow(arpa) {
		return
	}
	before := d.splitArpa
	d.splitArpa += n
	switch {
	case before == 0:
		for r := range d.addrs.all {
			d.addChild(reverseName(r.key()))
		}
	case d.splitArpa == 0:
		for r := range d.addrs.all {
			d.dropChild(reverseName(r.key()))
		}
	}
}
