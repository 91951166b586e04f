// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// A layer of files among others, of which now these have most names and now those: the
// table is that of the model, and the servers are told exactly what differs.
func TestSetFilesAgainstModel(t *testing.T) {
	names, addrs := pool()
	asked := askedOf(names, addrs)
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 2))
		all := NewNames()
		model := naive{{}, {}, {}}
		var layers []*Layer
		for i := range model {
			layers = append(layers, all.AddLayer(fmt.Sprint("layer ", i)))
		}
		files := int(seed) % len(layers)
		for step := range 60 {
			i := files
			if r.IntN(2) == 0 {
				i = r.IntN(len(layers))
			}
			said := make(map[string]Name)
			var order []string
			from := layers[i].Origin(func() string { return "test" })
			ttl := uint32(r.IntN(3))
			for range r.IntN(10) {
				n := Name{Name: names[r.IntN(len(names))], TTL: ttl, From: from}
				for _, at := range r.Perm(len(addrs))[:1+r.IntN(2)] {
					n.Addrs = append(n.Addrs, addrs[at])
				}
				n.Pointers = n.Addrs
				if _, ok := said[n.Name]; !ok {
					said[n.Name] = n
					order = append(order, n.Name)
				}
			}
			model[i] = said
			before := all.Table()
			var err error
			if i == files {
				_, err = layers[i].SetFiles(yamlOf(ttl, said, order))
			} else {
				err = layers[i].Replace(func(yield func(Name) bool) {
					for _, name := range order {
						if !yield(said[name]) {
							return
						}
					}
				})
			}
			if err != nil {
				t.Fatal(err)
			}
			when := fmt.Sprintf("seed %d, step %d", seed, step)
			checkModel(t, when, all, layers, model, asked)
			checkDifference(t, when, before, all.Table(), asked)
			if t.Failed() {
				return
			}
		}
	}
}

// yamlOf writes names as a file.
func yamlOf(ttl uint32, said map[string]Name, order []string) Source {
	var b bytes.Buffer
	fmt.Fprintf(&b, "ttl: %d\nnames:\n", ttl)
	for _, name := range order {
		fmt.Fprintf(&b, "  %q: [", name)
		for i, addr := range said[name].Addrs {
			fmt.Fprintf(&b, "%.*s%q", i, ",", addr)
		}
		b.WriteString("]\n")
	}
	return yamlSource(b.String())
}

// What an address gives back stays in its order when files change, that of other layers
// too; a name that files hid comes last when they let go.
func TestSetFilesKeepsPointersInOrder(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	for _, tc := range []struct {
		name        string
		filesBehind bool
		others      int
		before      string // names of the file
		after       string
		want        string
	}{
		{"first", false, 3, "", "f3 f2 f1", "f3 f2 f1 o2 o1 o0"},
		{"another order", false, 3, "f1 f2 f3", "f3 f2 f1", "f3 f2 f1 o2 o1 o0"},
		{"behind", true, 3, "f3 f2", "f3 f1 f2", "o2 o1 o0 f3 f1 f2"},
		{"hides", false, 3, "f1 f2 f3", "f1 o1 f3", "f1 o1 f3 o2 o0"},
		{"lets go", false, 3, "f1 o2 f3", "f1 f2 f3", "f1 f2 f3 o1 o0 o2"},
		{"goes on hiding", false, 3, "f1 o2 f3", "f2 o2 f1", "f2 o2 f1 o1 o0"},
		{"is hidden", true, 3, "f1 o2 f3", "f2 o2 f1", "o2 o1 o0 f2 f1"},
		{"too many, others less", false, 18, "f0 f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12 f13 f14 f15 f16", "f16 f0 f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12 f13 f14 f15 f17",
			"f16 f0 f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12 f13 f14"},
		{"fewer names than others", false, 6, "f1 o5", "f2 f1", "f2 f1 o4 o3 o2 o1 o0 o5"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			all := NewNames()
			var files, other *Layer
			if tc.filesBehind {
				other, files = all.AddLayer("other"), all.AddLayer("files")
			} else {
				files, other = all.AddLayer("files"), all.AddLayer("other")
			}
			set := func(names string) {
				var b strings.Builder
				for name := range strings.FieldsSeq(names) {
					fmt.Fprintf(&b, "192.0.2.1 %s\n", name)
				}
				if _, err := files.SetFiles(hostsSource(b.String())); err != nil {
					t.Fatal(err)
				}
			}
			set(tc.before)
			from := other.Origin(func() string { return "other" })
			for i := range tc.others {
				name := fmt.Sprint("o", tc.others-1-i)
				if err := other.Apply(slices.Values([]Name{{Name: name, From: from, Addrs: addrs, Pointers: addrs}})); err != nil {
					t.Fatal(err)
				}
			}
			set(tc.after)
			var got []string
			for _, p := range pointersOf(all.Table().addrs.find([]byte{192, 0, 2, 1})) {
				got = append(got, strings.TrimSuffix(p.name.String(), "."))
			}
			if diff := gocmp.Diff(tc.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("names of the address (-want +got):\n%s", diff)
			}
		})
	}
}

// A large file of which one line has changed, and others have moved: what is in the cache
// for other names stays, also what is on its way. Every name has its new line.
func TestSetFilesChangeIsExact(t *testing.T) {
	file := func(addr string, before string) Source {
		var b strings.Builder
		b.WriteString(before)
		for i := range maxChanges + 10 {
			fmt.Fprintf(&b, "10.0.%d.%d n%d.example.org\n", i/250, i%250, i)
		}
		fmt.Fprintf(&b, "%s last.example.org\n", addr)
		return hostsSource(b.String())
	}
	for name, again := range map[string]bool{
		"a.n7.example.org": false, "example.org": false, "7.0.0.10.in-addr.arpa": false, "n7.example.org": false,
		"last.example.org": true, "a.last.example.org": true, "1.2.0.192.in-addr.arpa": true, "2.2.0.192.in-addr.arpa": true,
	} {
		for _, others := range []int{0, 1, 2 * maxChanges} {
			t.Run(fmt.Sprint(name, " beside ", others), func(t *testing.T) {
				all := NewNames()
				l := all.AddLayer("files")
				if _, err := l.SetFiles(file("192.0.2.1", "")); err != nil {
					t.Fatal(err)
				}
				other := all.AddLayer("other")
				from := other.Origin(func() string { return "other" })
				if err := other.Replace(func(yield func(Name) bool) {
					for i := range others {
						if !yield(Name{Name: fmt.Sprintf("o%d.example.net", i), From: from, Addrs: []netip.Addr{loopback}}) {
							return
						}
					}
				}); err != nil {
					t.Fatal(err)
				}
				bubble(t, Config{}, says(t, nil, good), func(t *testing.T, s *Server, end *oracle) {
					end.takes = time.Second
					defer all.Follow(s)()
					var client sync.WaitGroup
					client.Go(func() { askPastTable(t, s, name, end) })
					synctest.Wait()
					if _, err := l.SetFiles(file("192.0.2.2", "# one more line\n")); err != nil {
						t.Fatal(err)
					}
					client.Wait()
					askPastTable(t, s, name, end)
					if got := end.asked() == 2; got != again {
						t.Errorf("asked again: %t", got)
					}
				})
				if got := all.Table().lookup(fromRR("n7.example.org")).place(); got != "hosts:9" {
					t.Errorf("n7 is of %s", got)
				}
			})
		}
	}
}

// Files that are read again leave nothing of the old ones behind.
func TestSetFilesAnew(t *testing.T) {
	const many = 20_000
	names := NewNames()
	l, other := names.AddLayer("files"), names.AddLayer("other")
	from := other.Origin(func() string { return "other" })
	tell := func(i int) uint64 {
		src := manyNames(many, FormatHosts)
		if _, err := l.SetFiles(Source{src.Path, fmt.Appendf(src.Data, "192.0.2.%d last.example.org\n", i), src.Format}); err != nil {
			t.Fatal(err)
		}
		return testenv.Heap()
	}
	tell(0)
	if err := other.Replace(func(yield func(Name) bool) {
		for i := range many {
			addrs := []netip.Addr{testenv.MeshAddr(i)}
			if i%100 == 0 && !yield(Name{Name: fmt.Sprintf("other-%d.example.org", i), Addrs: addrs, Pointers: addrs, From: from}) {
				return
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	first := tell(1)
	if again := tell(2); again > first+many*8 {
		t.Errorf("%d octets, then %d", first, again)
	}
	if n := names.Table().Names(); n != many+1+many/100 {
		t.Errorf("%d names", n)
	}
}
