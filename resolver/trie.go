// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"hash/maphash"
	"slices"
)

const (
	// fan branches a node: 8 keep the leaves of a split from being nearly empty, and
	// a million items within six steps.
	fanBits = 3
	fan     = 1 << fanBits
	// maxLeaf items are found by their hashes, which fill two cache lines.
	maxLeaf = 32
	// maxShift leaves no bits of a hash to branch by.
	maxShift = 30
)

// keyed is an item of a trie.
type keyed interface {
	comparable
	key() string
}

// node is a trie of items by the hash of their key. It is persistent: an edit copies
// what it changes and shares all else, so that who reads an older root sees nothing
// of it and waits for nobody. Nil is the empty trie.
type node[T keyed] struct {
	by     *edit          // whose node it is, to be changed in place
	kids   *[fan]*node[T] // nil in a leaf
	hashes []uint32       // of items
	items  []T
}

// edit is one making of a trie: what it has made it may change.
type edit struct{ _ byte }

// seed is of the process: names that an attacker chooses do not collide.
var seed = maphash.MakeSeed()

func hashOf(key []byte) uint32 { return uint32(maphash.Bytes(seed, key)) }

// find returns the item with a key, or the zero T. It allocates nothing.
func (n *node[T]) find(key []byte) (item T) {
	if n == nil {
		return item
	}
	hash := hashOf(key)
	for rest := hash; n.kids != nil; rest >>= fanBits {
		if n = n.kids[rest%fan]; n == nil {
			return item
		}
	}
	if i := n.index(hash, key); i >= 0 {
		return n.items[i]
	}
	return item
}

// put adds an item, or replaces the one with its key.
func (n *node[T]) put(by *edit, item T) *node[T] {
	n, at := n.slot(by, []byte(item.key()))
	*at = item
	return n
}

// slot is the place of the item with a key, which is zero if there was none: whoever
// asks has to fill it before anybody looks again.
func (n *node[T]) slot(by *edit, key []byte) (root *node[T], at *T) {
	hash := hashOf(key)
	root = n.own(by)
	n = root
	for shift := uint(0); ; shift += fanBits {
		if n.kids == nil {
			if i := n.index(hash, key); i >= 0 {
				return root, &n.items[i]
			}
			if len(n.items) < maxLeaf || shift >= maxShift {
				var none T
				n.hashes, n.items = append(n.hashes, hash), append(n.items, none)
				return root, &n.items[len(n.items)-1]
			}
			n.split(by, shift)
		}
		kid := &n.kids[hash>>shift%fan]
		*kid = (*kid).own(by)
		n = *kid
	}
}

// drop removes the item with a key.
func (n *node[T]) drop(by *edit, key []byte) *node[T] {
	return n.dropAt(by, 0, hashOf(key), key)
}

func (n *node[T]) dropAt(by *edit, shift uint, hash uint32, key []byte) *node[T] {
	if n == nil {
		return nil
	}
	n = n.own(by)
	if n.kids != nil {
		kid := &n.kids[hash>>shift%fan]
		*kid = (*kid).dropAt(by, shift+fanBits, hash, key)
		if *n.kids == [fan]*node[T]{} {
			return nil
		}
		return n
	}
	if i := n.index(hash, key); i >= 0 {
		n.hashes, n.items = slices.Delete(n.hashes, i, i+1), slices.Delete(n.items, i, i+1)
	}
	if len(n.items) == 0 {
		return nil
	}
	return n
}

// own is the node itself if this edit made it, or a copy.
func (n *node[T]) own(by *edit) *node[T] {
	switch {
	case n == nil:
		return &node[T]{by: by}
	case n.by == by:
		return n
	}
	mine := &node[T]{by: by}
	if n.kids != nil {
		kids := *n.kids
		mine.kids = &kids
		return mine
	}
	mine.hashes = append(make([]uint32, 0, len(n.hashes)+1), n.hashes...)
	mine.items = append(make([]T, 0, len(n.items)+1), n.items...)
	return mine
}

func (n *node[T]) index(hash uint32, key []byte) int {
	for i, h := range n.hashes {
		if h == hash && n.items[i].key() == string(key) {
			return i
		}
	}
	return -1
}

// split makes a branch of a leaf.
func (n *node[T]) split(by *edit, shift uint) {
	n.kids = new([fan]*node[T])
	for i, hash := range n.hashes {
		kid := &n.kids[hash>>shift%fan]
		*kid = (*kid).own(by)
		(*kid).hashes, (*kid).items = append((*kid).hashes, hash), append((*kid).items, n.items[i])
	}
	n.hashes, n.items = nil, nil
}

// all yields every item, in no order.
func (n *node[T]) all(yield func(T) bool) { n.walk(yield) }

func (n *node[T]) walk(yield func(T) bool) bool {
	if n == nil {
		return true
	}
	for _, item := range n.items {
		if !yield(item) {
			return false
		}
	}
	if n.kids == nil {
		return true
	}
	for _, kid := range n.kids {
		if !kid.walk(yield) {
			return false
		}
	}
	return true
}
