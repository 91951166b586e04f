// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"cmp"
	"math/bits"
	"slices"
)

// bulk is a trie in the making whose items come by the million. They are gathered in one
// hash table; then every node and every leaf is made once, of the size that it has. The
// zero bulk is empty.
type bulk[T keyed] struct {
	// places are a power of two. At least half are empty: for short ways, and as room to
	// sort the others.
	places []hashed[T]
	taken  int
}

// minBulk is for how many items there is always room.
const minBulk = 32

// newBulk makes a bulk that need not grow for n items.
func newBulk[T keyed](n int) bulk[T] {
	return bulk[T]{places: make([]hashed[T], 1<<bits.Len(uint(2*max(n, minBulk)-1)))}
}

// slot is that of a trie: the place of the item with a key, which is zero if there was
// none. It has to be filled before anybody looks again.
func (b *bulk[T]) slot(key []byte) *T {
	if 2*b.taken >= len(b.places) {
		b.grow()
	}
	hash := hashOf(key)
	for i := hash; ; i++ {
		at := b.place(i)
		switch {
		case at.isFree():
			b.taken++
			at.hash = hash
			return &at.item
		case at.hash == hash && at.item.key() == string(key):
			return &at.item
		}
	}
}

// place is one for a hash. Those behind it are next.
func (b *bulk[T]) place(hash uint32) *hashed[T] { return &b.places[int(hash)&(len(b.places)-1)] }

func (b *bulk[T]) grow() {
	bigger := newBulk[T](len(b.places))
	bigger.taken = b.taken
	for _, h := range b.places {
		if h.isFree() {
			continue
		}
		i := h.hash
		for !bigger.place(i).isFree() {
			i++
		}
		*bigger.place(i) = h
	}
	*b = bigger
}

func (h *hashed[T]) isFree() bool {
	var none T
	return h.item == none
}

// trie is what was gathered. The bulk is of no use any more.
func (b *bulk[T]) trie(by *edit) *node[T] {
	if b.taken == 0 {
		return nil
	}
	items := slices.DeleteFunc(b.places, func(h hashed[T]) bool { return h.isFree() })
	return build(by, items, b.places[b.taken:2*b.taken], 0)
}

// build makes a node of items, in whose hashes the bits below shift are the same. They get
// lost, and need as much room besides.
func build[T keyed](by *edit, items, room []hashed[T], shift uint) *node[T] {
	var starts [fan + 1]int
	for _, h := range items {
		starts[1+h.hash>>shift%fan]++
	}
	for i := range fan {
		starts[i+1] += starts[i]
	}
	next := starts
	for _, h := range items {
		at := &next[h.hash>>shift%fan]
		room[*at] = h
		*at++
	}
	n := &node[T]{by: by, mine: 1<<fan - 1}
	for i := range n.kids {
		from, to := starts[i], starts[i+1]
		if to-from > maxLeaf && shift < maxShift {
			n.kids[i].node = build(by, room[from:to], items[from:to], shift+fanBits)
		} else {
			n.kids[i].leaf = newLeaf(room[from:to])
		}
	}
	return n
}

func newLeaf[T keyed](items []hashed[T]) leaf[T] {
	l := slices.Clone(leaf[T](items))
	slices.SortFunc(l, byHash)
	return l
}

func byHash[T keyed](a, b hashed[T]) int { return cmp.Compare(a.hash, b.hash) }
