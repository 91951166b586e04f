// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"hash/maphash"
	"slices"

	"github.com/dnsteer/dnsteer/resolver/internal/mmsg"
)

const (
	// fan branches a node: with 32 a million items are within three steps, the first
	// two of which stay in the processor's cache.
	fanBits = 5
	fan     = 1 << fanBits
	// maxLeaf items are in one leaf, two for each branch of the node that it becomes.
	maxLeaf = 2 * fan
	// leafStep is by how many items a leaf grows.
	leafStep = 2
	// maxShift leaves no bits of a hash to branch by.
	maxShift = 32 - fanBits
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
	by   *edit  // whose node it is, to be changed in place
	mine uint32 // the branches whose leaf is that edit's too, a bit each
	kids [fan]kid[T]
}

// kid is what is at one branch of a node: a node, or else a leaf, which may be empty.
type kid[T keyed] struct {
	node *node[T]
	leaf leaf[T]
}

// leaf holds items in the order of their hashes. These are evenly spread, so that one is
// near the place that it would have if they were perfectly so.
type leaf[T keyed] []hashed[T]

type hashed[T keyed] struct {
	hash uint32
	item T
}

// edit is one making of a trie: what it has made it may change.
type edit struct{ _ byte }

// seed is of the process: names that an attacker chooses do not collide.
var seed = maphash.MakeSeed()

func hashOf(key []byte) uint32 { return uint32(maphash.Bytes(seed, key)) }

// find returns the item with a key, or the zero T. It allocates nothing.
func (n *node[T]) find(key []byte) (item T) {
	hash := hashOf(key)
	for rest := hash; n != nil; rest >>= fanBits {
		k := &n.kids[rest%fan]
		if k.node == nil {
			if i, ok := k.leaf.search(hash, key); ok {
				return k.leaf[i].item
			}
			return item
		}
		n = k.node
	}
	return item
}

// near is where an item would be if hashes were perfectly spread.
func (l leaf[T]) near(hash uint32) int { return int(uint64(hash) * uint64(len(l)) >> 32) }

// first is where the items of a hash begin, or belong.
func (l leaf[T]) first(hash uint32) int {
	i := l.near(hash)
	for i > 0 && l[i-1].hash >= hash {
		i--
	}
	for i < len(l) && l[i].hash < hash {
		i++
	}
	return i
}

// search returns where an item is, or where it belongs.
func (l leaf[T]) search(hash uint32, key []byte) (i int, ok bool) {
	for i = l.first(hash); i < len(l) && l[i].hash == hash; i++ {
		if l[i].item.key() == string(key) {
			return i, true
		}
	}
	return i, false
}

// warmMost is how many keys are warmed at once.
const warmMost = mmsg.Size

// warm reads what find will look at, for several hashes, a step of all of them after the
// other: so the processor fetches from memory for all at once what it would else wait for
// one by one. Find is as right without it. What it returns says nothing.
func (n *node[T]) warm(hashes []uint32) (sum uint32) {
	var nodes [warmMost]*node[T]
	var leaves [warmMost]leaf[T]
	var items [warmMost]T
	for i := range hashes {
		nodes[i] = n
	}
	for shift, deeper := uint(0), n != nil; deeper; shift += fanBits {
		deeper = false
		for i, hash := range hashes {
			if nodes[i] != nil {
				k := &nodes[i].kids[hash>>shift%fan]
				nodes[i], leaves[i] = k.node, k.leaf
				deeper = deeper || k.node != nil
			}
		}
	}
	for i, hash := range hashes {
		if l := leaves[i]; len(l) > 0 {
			sum += l[l.near(hash)].hash
		}
	}
	for i, hash := range hashes {
		at := leaves[i].first(hash)
		if at < len(leaves[i]) && leaves[i][at].hash == hash {
			items[i] = leaves[i][at].item
		}
	}
	var none T
	var keys [warmMost]string
	for i := range hashes {
		if items[i] != none {
			keys[i] = items[i].key()
		}
	}
	for _, key := range keys[:len(hashes)] {
		if key != "" {
			sum += uint32(key[0])
		}
	}
	return sum
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
		branch := hash >> shift % fan
		k := &n.kids[branch]
		if k.node == nil {
			i, ok := k.leaf.search(hash, key)
			if !ok && len(k.leaf) >= maxLeaf && shift < maxShift {
				k.split(by, shift+fanBits)
			} else {
				n.ownLeaf(branch, !ok)
				if !ok {
					k.leaf = slices.Insert(k.leaf, i, hashed[T]{hash: hash})
				}
				return root, &k.leaf[i].item
			}
		}
		k.node = k.node.own(by)
		n = k.node
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
	branch := hash >> shift % fan
	k := &n.kids[branch]
	if k.node != nil {
		k.node = k.node.dropAt(by, shift+fanBits, hash, key)
	} else if i, ok := k.leaf.search(hash, key); ok {
		n.ownLeaf(branch, false)
		k.leaf = slices.Delete(k.leaf, i, i+1)
	}
	for i := range n.kids {
		if n.kids[i].node != nil || len(n.kids[i].leaf) > 0 {
			return n
		}
	}
	return nil
}

// own is the node itself if this edit made it, or a copy.
func (n *node[T]) own(by *edit) *node[T] {
	switch {
	case n == nil:
		return &node[T]{by: by}
	case n.by == by:
		return n
	}
	mine := *n
	mine.by, mine.mine = by, 0
	return &mine
}

// ownLeaf makes the leaf at a branch one that the node's edit may change, with room for
// one more item if asked.
func (n *node[T]) ownLeaf(branch uint32, grow bool) {
	l := &n.kids[branch].leaf
	isMine := n.mine>>branch&1 == 1
	if isMine && !(grow && len(*l) == cap(*l)) {
		return
	}
	room := len(*l)
	if grow {
		room = (room/leafStep + 1) * leafStep
	}
	*l = append(make(leaf[T], 0, room), *l...)
	n.mine |= 1 << branch
}

// split makes a node of a leaf.
func (k *kid[T]) split(by *edit, shift uint) {
	k.node = &node[T]{by: by}
	for _, h := range k.leaf {
		branch := h.hash >> shift % fan
		k.node.ownLeaf(branch, true)
		to := &k.node.kids[branch].leaf
		*to = append(*to, h)
	}
	k.leaf = nil
}

// all yields every item, in no order.
func (n *node[T]) all(yield func(T) bool) {
	kid[T]{node: n}.walk(func(h hashed[T]) bool { return yield(h.item) })
}

// walk yields every item at a branch and below, until yield is false, and then is.
func (k kid[T]) walk(yield func(hashed[T]) bool) bool {
	for _, h := range k.leaf {
		if !yield(h) {
			return false
		}
	}
	if k.node != nil {
		for i := range k.node.kids {
			if !k.node.kids[i].walk(yield) {
				return false
			}
		}
	}
	return true
}
