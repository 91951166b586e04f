// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// naive is the model of Names: everything is worked out anew for each question.
type naive []map[string]Name // by layer, under the name as written

// winner is the name that counts, and its layer.
func (n naive) winner(name string) (Name, int, bool) {
	for i, layer := range n {
		if said, ok := layer[name]; ok {
			return said, i, true
		}
	}
	return Name{}, 0, false
}

// names are those that a source gave.
func (n naive) names() map[string]bool {
	all := make(map[string]bool)
	for _, layer := range n {
		for name := range layer {
			all[name] = true
		}
	}
	return all
}

// pointers are the names that each reverse name gives back, by the layers' order.
func (n naive) pointers() map[string][]string {
	all := make(map[string][]string)
	for i := range n {
		for name := range n.names() {
			said, layer, _ := n.winner(name)
			if layer != i || said.Pointers == nil || strings.HasPrefix(name, "*") {
				continue
			}
			for _, addr := range said.Addrs {
				reverse, err := dns.ReverseAddr(addr.String())
				if err != nil {
					panic(err)
				}
				all[strings.TrimSuffix(reverse, ".")] = append(all[strings.TrimSuffix(reverse, ".")], fmt.Sprintf("%d %s %d", i, name, said.TTL))
			}
		}
	}
	for _, names := range all {
		slices.Sort(names)
	}
	return all
}

// find is RFC 4592 section 3.3.1, word by word.
func (n naive) find(name string) string {
	pointers := n.pointers()
	given := n.names()
	exists := func(name string) bool {
		for other := range given {
			if other == name || strings.HasSuffix(other, "."+name) {
				return true
			}
		}
		for other := range pointers {
			if other == name || strings.HasSuffix(other, "."+name) {
				return true
			}
		}
		return false
	}
	if said, i, ok := n.winner(name); ok {
		return fmt.Sprintf("%d %v", i, said.Addrs)
	}
	if names := pointers[name]; names != nil {
		return fmt.Sprint(names)
	}
	if exists(name) {
		return ""
	}
	for up := name; ; {
		var ok bool
		if _, up, ok = strings.Cut(up, "."); !ok {
			return ""
		}
		if said, i, ok := n.winner("*." + up); ok {
			return fmt.Sprintf("%d %v", i, said.Addrs)
		}
		if exists(up) {
			return ""
		}
	}
}

// view is what a table finds, in the words of the model.
func viewOf(t *Table, name string) string {
	wire := fromRR(name)
	if rest, wild := strings.CutPrefix(name, "*."); wild {
		wire = wildLabel + fromRR(rest)
	}
	at := t.find([]byte(wire))
	if at.reverse != nil {
		var names []string
		for _, p := range pointersOf(at.reverse) {
			names = append(names, fmt.Sprintf("%d %s %d", p.layer-1, strings.TrimSuffix(p.name.String(), "."), p.ttl))
		}
		slices.Sort(names)
		return fmt.Sprint(names)
	}
	if at.entry == nil {
		return ""
	}
	addrs := []netip.Addr{}
	for kind, rdata := range at.entry.each {
		addr, _ := addressOf(kind, rdata)
		addrs = append(addrs, addr)
	}
	return fmt.Sprintf("%d %v", at.entry.from.layer.rank()-1, addrs)
}

// pool are few enough names to meet often.
func pool() (names []string, addrs []netip.Addr) {
	for _, zone := range []string{"org", "a.org", "b.a.org", "c.b.a.org", "arpa", "in-addr.arpa", "192.in-addr.arpa", "2.0.192.in-addr.arpa", "1.2.0.192.in-addr.arpa", "ip6.arpa", "0.0.2.ip6.arpa"} {
		names = append(names, zone, "*."+zone, "x."+zone, "y."+zone, "y.x."+zone, "*.x."+zone)
	}
	for i := range 4 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)}))
	}
	return names, addrs
}

// askedOf are names of the pool, and what its addresses give back, and below.
func askedOf(names []string, addrs []netip.Addr) []string {
	asked := slices.Clone(names)
	for _, addr := range addrs {
		reverse, err := dns.ReverseAddr(addr.String())
		if err != nil {
			panic(err)
		}
		asked = append(asked, strings.TrimSuffix(reverse, "."), "q."+reverse[:len(reverse)-1])
	}
	return asked
}

// Whatever layers say one after the other, the table is that of the model, and a table
// that somebody still reads stays as it was.
func TestLayersAgainstModel(t *testing.T) {
	names, addrs := pool()
	asked := askedOf(names, addrs)
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 1))
		all := NewNames()
		model := naive{{}, {}, {}}
		var layers []*Layer
		var origins []*Origin
		for i := range model {
			l := all.AddLayer(fmt.Sprint("layer ", i))
			layers, origins = append(layers, l), append(origins, l.Origin(func() string { return "test" }))
		}
		for step := range 60 {
			i := r.IntN(len(layers))
			var said []Name
			for range 1 + r.IntN(4) {
				n := Name{Name: names[r.IntN(len(names))], TTL: uint32(r.IntN(3)), From: origins[i], Addrs: []netip.Addr{}}
				if slices.ContainsFunc(said, func(other Name) bool { return other.Name == n.Name }) {
					continue
				}
				for _, at := range r.Perm(len(addrs))[:r.IntN(3)] {
					n.Addrs = append(n.Addrs, addrs[at])
				}
				if r.IntN(2) == 0 {
					n.Pointers = n.Addrs
				}
				said = append(said, n)
			}
			if r.IntN(8) == 0 {
				said = said[:len(said)/2]
				clear(model[i])
				if err := layers[i].Replace(slices.Values(said)); err != nil {
					t.Fatal(err)
				}
			} else if err := layers[i].Apply(slices.Values(said)); err != nil {
				t.Fatal(err)
			}
			for _, n := range said {
				delete(model[i], n.Name)
				if len(n.Addrs) > 0 {
					model[i][n.Name] = n
				}
			}
			checkModel(t, fmt.Sprintf("seed %d, step %d", seed, step), all, layers, model, asked)
			if t.Failed() {
				return
			}
		}
		// Nothing is left of what everybody has forgotten.
		held := all.Table()
		before := viewOf(held, "x.a.org")
		for _, l := range layers {
			if err := l.Replace(slices.Values([]Name(nil))); err != nil {
				t.Fatal(err)
			}
		}
		if empty := all.Table(); empty.names != nil || empty.addrs != nil || empty.wilds != 0 || empty.splitArpa != 0 || empty.given != 0 {
			t.Errorf("seed %d: the empty table is %+v", seed, empty)
		}
		if after := viewOf(held, "x.a.org"); after != before {
			t.Errorf("seed %d: a table that was held changed from %q to %q", seed, before, after)
		}
	}
}

func checkModel(t *testing.T, when string, all *Names, layers []*Layer, model naive, asked []string) {
	t.Helper()
	table := all.Table()
	for _, name := range asked {
		if got, want := viewOf(table, name), model.find(name); got != want {
			t.Errorf("%s: %s is %q, want %q", when, name, got, want)
		}
	}
	if got, want := table.Names(), len(model.names()); got != want {
		t.Errorf("%s: %d names, want %d", when, got, want)
	}
	for i, l := range layers {
		hidden := 0
		for name := range model[i] {
			if _, at, _ := model.winner(name); at != i {
				hidden++
			}
		}
		if names, got := l.Count(); names != len(model[i]) || got != hidden {
			t.Errorf("%s: %s has %d names, %d hidden, want %d, %d", when, l.name, names, got, len(model[i]), hidden)
		}
	}
}

// Names that are told anew, the same from another origin, leave nothing of the old ones
// behind: what their addresses give back refers to the names.
func TestNamesToldAnew(t *testing.T) {
	const many = 20_000
	names := NewNames()
	l := names.AddLayer("cluster")
	tell := func() uint64 {
		from := l.Origin(func() string { return "cluster" })
		if err := l.Replace(func(yield func(Name) bool) {
			for i := range many {
				addrs := []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}
				if !yield(Name{Name: fmt.Sprintf("a-service-%d.example.org", i), Addrs: addrs, Pointers: addrs, TTL: 5, From: from}) {
					return
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		return testenv.Heap()
	}
	first := tell()
	if again := tell(); again > first+many*32 {
		t.Errorf("%d octets, then %d", first, again)
	}
	if n := names.Table().Names(); n != many {
		t.Errorf("%d names", n)
	}
}
