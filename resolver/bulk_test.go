// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
)

// A trie made in bulk is the one that inserts make, whatever its size; who edits it later
// leaves nothing of that in the root before.
func TestBulk(t *testing.T) {
	for _, size := range []int{0, 1, minBulk, minBulk + 1, maxLeaf, 2 * maxLeaf * fan, 2 * maxLeaf * fan * fan} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			var b bulk[*word]
			if size%2 == 1 {
				b = newBulk[*word](size)
			}
			var inserted *node[*word]
			model := make(map[string]*word)
			by := new(edit)
			for i := range 2 * size { // each twice: the second replaces the first
				w := &word{fmt.Sprint("w", i%size)}
				if before := *b.slot([]byte(w.text)); before != model[w.text] {
					t.Fatalf("%s is in the place of %v", w.text, before)
				}
				*b.slot([]byte(w.text)) = w
				inserted = inserted.put(by, w)
				model[w.text] = w
			}
			made := b.trie(by)
			sameTrie(t, made, inserted)
			if !maps.Equal(content(t, made), model) {
				t.Error("the trie differs from the map")
			}
			for _, by := range []*edit{by, new(edit)} { // who made it, and somebody else
				before, was := made, maps.Clone(model)
				for i := range size / 2 {
					delete(model, fmt.Sprint("w", i))
					made = made.drop(by, fmt.Append(nil, "w", i))
					w := &word{fmt.Sprintf("%p %d", by, i)}
					model[w.text] = w
					made = made.put(by, w)
				}
				if !maps.Equal(content(t, made), model) {
					t.Error("after an edit the trie differs from the map")
				}
				if made != before && !maps.Equal(content(t, before), was) {
					t.Error("the trie before has changed")
				}
			}
		})
	}
}

// Hashes that are all alike end in one leaf, below as many nodes as they have bits for.
func TestBulkWithoutHash(t *testing.T) {
	var items []hashed[*word]
	for i := range maxLeaf + 1 {
		items = append(items, hashed[*word]{7, &word{fmt.Sprint("w", i)}})
	}
	n := build(new(edit), items, make([]hashed[*word], len(items)), 0)
	depth := 0
	for hash := uint32(7); n.kids[hash%fan].node != nil; hash >>= fanBits {
		n = n.kids[hash%fan].node
		depth++
	}
	if l := n.kids[0].leaf; depth != (32+fanBits-1)/fanBits-1 || len(l) != len(items) {
		t.Errorf("%d items below %d nodes", len(l), depth)
	}
}

// sameTrie compares two tries, node by node and leaf by leaf.
func sameTrie(t *testing.T, a, b *node[*word]) {
	t.Helper()
	if a == nil || b == nil {
		if a != b {
			t.Fatalf("node %v, want %v", a, b)
		}
		return
	}
	for i := range fan {
		a, b := &a.kids[i], &b.kids[i]
		sameTrie(t, a.node, b.node)
		if !slices.IsSortedFunc(a.leaf, byHash) || !slices.Equal(sorted(a.leaf), sorted(b.leaf)) {
			t.Fatalf("leaf %v, want %v", a.leaf, b.leaf)
		}
	}
}

// sorted is a leaf with those of one hash in order too.
func sorted(l leaf[*word]) leaf[*word] {
	l = slices.Clone(l)
	slices.SortFunc(l, func(a, b hashed[*word]) int {
		return cmp.Or(byHash(a, b), cmp.Compare(a.item.text, b.item.text))
	})
	return l
}
