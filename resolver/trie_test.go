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
