// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// Two tries differ as the maps of their items do, whatever they share.
func TestCompare(t *testing.T) {
	for _, size := range []int{0, 1, maxLeaf * fan, 2 * maxLeaf * fan} {
		for _, touched := range []int{0, 1, maxLeaf * fan, 3 * maxLeaf * fan} {
			t.Run(fmt.Sprint(size, " ", touched), func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(size), uint64(touched)))
				var before *node[*word]
				for i := range size {
					before = before.put(new(edit), &word{fmt.Sprint("w", i)})
				}
				after, by := before, new(edit)
				for range touched {
					w := &word{fmt.Sprint("w", r.IntN(2*size+1))}
					if r.IntN(2) == 0 {
						after = after.put(by, w)
					} else {
						after = after.drop(by, []byte(w.text))
					}
				}
				for _, tries := range [][2]*node[*word]{{before, after}, {after, before}, {before, nil}, {nil, after}} {
					got := [2]map[string]*word{{}, {}}
					seen := make(map[string]bool)
					compare(tries[0], tries[1], func(a, b *word) bool {
						for i, w := range []*word{a, b} {
							if w != nil {
								got[i][w.text] = w
								seen[w.text] = true
							}
						}
						return true
					})
					for i, trie := range tries {
						same := content(t, tries[1-i])
						want := maps.Clone(content(t, trie))
						maps.DeleteFunc(want, func(text string, w *word) bool { return !seen[text] && same[text] == w })
						if !maps.Equal(got[i], want) {
							t.Errorf("of %d items %d were compared, want %d", len(content(t, trie)), len(got[i]), len(want))
						}
					}
				}
				if size > maxLeaf {
					n := 0
					one := before.put(new(edit), &word{"w0"})
					compare(before, one, func(a, b *word) bool { n++; return true })
					if n == 0 || n > 2*maxLeaf {
						t.Errorf("one change in %d items: %d were compared", size, n)
					}
				}
				if size > maxLeaf {
					n := 0
					compare(before, nil, func(a, b *word) bool { n++; return n < 3 })
					if n != 3 {
						t.Errorf("compared %d after the end", n-3)
					}
				}
			})
		}
	}
}

// The difference of two tables is what differ says of every name.
func checkDifference(t *testing.T, when string, before, after *Table, asked []string) {
	t.Helper()
	changed := difference(before, after)
	for _, name := range slices.Concat(asked, []string{"other", "q.x.a.org"}) {
		wire, err := parseWild(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := changed.touch(wire), differ(before, after, wire); got != want {
			t.Errorf("%s: %s differs: %t, want %t", when, name, got, want)
		}
	}
}
