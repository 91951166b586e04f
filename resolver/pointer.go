// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"slices"
	"strconv"
)

// maxPointers is how many names an address gives back: a block list that maps a
// hundred thousand names to one address must not make a PTR answer of megabytes.
// Those beyond are not remembered.
const maxPointers = 16

// reverse is what an address gives back: PTR records that no source wrote. The
// sources say which addresses do; wildcards and the aliases of a hosts line do not.
// It never changes.
type reverse struct {
	addr  string // four octets or sixteen
	first pointer
	rest  *[]pointer // nil for most
}

// pointer is one name that an address gives back.
type pointer struct {
	name  wireName
	ttl   uint32
	layer uint32 // its rank
}

func (r *reverse) key() string { return r.addr }

func (r *reverse) pointers() []pointer {
	if r == nil {
		return nil
	}
	all := []pointer{r.first}
	if r.rest != nil {
		all = append(all, *r.rest...)
	}
	return all
}

// arpa is above all names that addresses give back.
const arpa = wireName("\x04arpa\x00")

var (
	arpa4 = []byte("\x07in-addr\x04arpa\x00")
	arpa6 = []byte("\x03ip6\x04arpa\x00")
)

// reverse returns what the address gives back whose reverse name is asked for.
func (t *Table) reverse(name []byte) *reverse {
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
	p := pointer{name: e.name, ttl: e.ttl, layer: uint32(e.from.layer.rank())}
	for kind, addr := range e.each {
		// Block lists give the unspecified address to names that they take away.
		if kind&kindPointer == 0 || isUnspecified(addr) {
			continue
		}
		addrs, slot := d.addrs.slot(d.by, []byte(addr))
		d.addrs = addrs
		if *slot == nil {
			*slot = &reverse{addr: addr, first: p}
			d.pointersChanged(addr, 1)
			continue
		}
		all := (*slot).pointers()
		at := len(all)
		for at > 0 && all[at-1].layer > p.layer {
			at--
		}
		if at >= maxPointers {
			continue
		}
		all = slices.Insert(all, at, p)
		*slot = newReverse(addr, all[:min(len(all), maxPointers)])
		d.pointersChanged(addr, 0)
	}
}

// dropPointers undoes addPointers.
func (d *draft) dropPointers(e *entry) {
	for kind, addr := range e.each {
		if kind&kindPointer == 0 || isUnspecified(addr) {
			continue
		}
		old := d.addrs.find([]byte(addr))
		left := slices.DeleteFunc(old.pointers(), func(p pointer) bool { return p.name == e.name })
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

func newReverse(addr string, all []pointer) *reverse {
	r := &reverse{addr: addr, first: all[0]}
	if len(all) > 1 {
		rest := slices.Clone(all[1:])
		r.rest = &rest
	}
	return r
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
			d.addChild(reverseName(r.addr))
		}
	case d.splitArpa == 0:
		for r := range d.addrs.all {
			d.dropChild(reverseName(r.addr))
		}
	}
}
