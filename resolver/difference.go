// SPDX-License-Identifier: Apache-2.0

package resolver

// difference are the names of which two tables say different things, as differ reports
// them; beyond maxChanges some of them. What the tables share costs nothing.
func difference(before, after *Table) changes {
	all := make(changes)
	compare(before.names, after.names, func(a, b *entry) bool {
		switch {
		case a.says(b):
		case b.isGiven():
			all.add(b.name)
		default:
			all.add(a.name)
		}
		return len(all) <= maxChanges
	})
	compare(before.addrs, after.addrs, func(a, b reverse) bool {
		switch {
		case sayTheSame(a, b):
		case b != nil:
			all.add(reverseName(b.key()))
		default:
			all.add(reverseName(a.key()))
		}
		return len(all) <= maxChanges
	})
	all.addApexes(before.apexes, after.apexes)
	return all
}

// addApexes adds those that are not the same.
func (c changes) addApexes(before, after apexes) {
	for name, x := range before {
		if !x.says(after[name]) {
			c.add(name)
		}
	}
	for name, x := range after {
		if !x.says(before[name]) {
			c.add(name)
		}
	}
}

// compare yields the items of every key of two tries, zero where one has none, in no order.
// It leaves out most of what the tries share.
func compare[T keyed](a, b *node[T], yield func(a, b T) bool) bool {
	return compareKids(kid[T]{node: a}, kid[T]{node: b}, 0, yield)
}

// compareKids compares what is at the same branch, below which the bits from shift on count.
func compareKids[T keyed](a, b kid[T], shift uint, yield func(a, b T) bool) bool {
	if a.node != nil && b.node != nil {
		if a.node == b.node {
			return true
		}
		for i := range fan {
			if !compareKids(a.node.kids[i], b.node.kids[i], shift+fanBits, yield) {
				return false
			}
		}
		return true
	}
	if len(a.leaf) > 0 && len(a.leaf) == len(b.leaf) && &a.leaf[0] == &b.leaf[0] {
		return true
	}
	var none T
	return a.walk(func(h hashed[T]) bool { return yield(h.item, b.find(h, shift)) }) &&
		b.walk(func(h hashed[T]) bool { return a.find(h, shift) != none || yield(none, h.item) })
}

// find returns the item with the key of another, or the zero T.
func (k kid[T]) find(like hashed[T], shift uint) (item T) {
	for ; k.node != nil; shift += fanBits {
		k = k.node.kids[like.hash>>shift%fan]
	}
	for i := k.leaf.first(like.hash); i < len(k.leaf) && k.leaf[i].hash == like.hash; i++ {
		if k.leaf[i].item.key() == like.item.key() {
			return k.leaf[i].item
		}
	}
	return item
}
