// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

type word struct{ text string }

func (w *word) key() string { return w.text }

// content is all of a trie, which every item is found in.
func content(t *testing.T, n *node[*word]) map[string]*word {
	t.Helper()
	all := make(map[string]*word)
	for w := range n.all {
		if all[w.text] != nil {
			t.Errorf("%s is there twice", w.text)
		}
		all[w.text] = w
		if n.find([]byte(w.text)) != w {
			t.Errorf("%s is not found", w.text)
		}
	}
	return all
}

// A trie against a map: deep, with edits of every size, down to nothing. Whoever has an
// older one sees nothing of an edit.
func TestTrie(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var n *node[*word]
	model := make(map[string]*word)
	const texts = 2 * maxLeaf * fan * fan // more than two levels of nodes hold
	for edits, size := 0, 1; size < 2*texts; edits, size = edits+1, size*3 {
		before, was := n, maps.Clone(model)
		by := new(edit)
		for range size {
			w := &word{fmt.Sprint("w", rng.IntN(texts))}
			if rng.IntN(4) == 0 {
				n = n.drop(by, []byte(w.text))
				delete(model, w.text)
			} else {
				n = n.put(by, w)
				model[w.text] = w
			}
		}
		if !maps.Equal(content(t, n), model) {
			t.Fatalf("edit %d: the trie differs from the map", edits)
		}
		if !maps.Equal(content(t, before), was) {
			t.Fatalf("edit %d: the trie before has changed", edits)
		}
	}
	if n.find([]byte("none")) != nil {
		t.Error("what is not there is found")
	}
	full, was := n, maps.Clone(model)
	by := new(edit)
	for text := range model {
		n = n.drop(by, []byte(text))
	}
	if n != nil {
		t.Error("without items there is still a node")
	}
	if !maps.Equal(content(t, full), was) {
		t.Error("the trie before has changed")
	}
}

// Hashes that are all alike end in one leaf, in which keys are compared.
func TestTrieWithoutHash(t *testing.T) {
	var l leaf[*word]
	for i := range 100 {
		w := &word{fmt.Sprint("w", i)}
		at, ok := l.search(7, []byte(w.text))
		if ok || at != i {
			t.Fatalf("%s: at %d, %v", w.text, at, ok)
		}
		l = append(l, hashed[*word]{7, w})
	}
	for i := range l {
		if at, ok := l.search(7, []byte(l[i].item.text)); !ok || at != i {
			t.Errorf("%s: at %d, %v", l[i].item.text, at, ok)
		}
	}
	if at, _ := l.search(6, []byte("w1")); at != 0 {
		t.Errorf("a smaller hash belongs at %d", at)
	}
	if at, _ := l.search(8, []byte("w1")); at != len(l) {
		t.Errorf("a larger hash belongs at %d", at)
	}
}

// noticed is an item that knows how often somebody has read its key.
type noticed struct {
	text string
	read int
}

func (n *noticed) key() string {
	n.read++
	return n.text
}

// Warming reads what is looked for later, all of it and nothing else, in tries of all
// depths.
func TestWarm(t *testing.T) {
	var none *node[*noticed]
	none.warm([]uint32{1, 2})
	for _, size := range []int{1, 3 * maxLeaf, maxLeaf * fan * 4} {
		var n *node[*noticed]
		by := new(edit)
		items := make([]*noticed, size)
		for i := range items {
			items[i] = &noticed{text: fmt.Sprint("item", i)}
			n = n.put(by, items[i])
		}
		for _, item := range items {
			item.read = 0
		}
		var hashes []uint32
		for i := range warmMost {
			hashes = append(hashes, hashOf(fmt.Append(nil, "item", 2*i))) // not all of them in a small one
		}
		n.warm(hashes)
		for i, item := range items {
			if want := i%2 == 0 && i < 2*warmMost; (item.read > 0) != want {
				t.Errorf("of %d: item %d was read %d times", size, i, item.read)
			}
		}
	}
}
