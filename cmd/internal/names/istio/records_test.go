// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dnsteer/dnsteer/test/istiod"
)

// proxy is the look-up of the sidecar's DNS proxy: the host itself, else the wildcard
// that ends with most of its labels.
func proxy(hosts map[string]netip.Addr, name string) (netip.Addr, bool) {
	if addr, ok := hosts[name]; ok {
		return addr, true
	}
	labels := strings.Split(name, ".")
	for n := range labels {
		if addr, ok := hosts["*."+strings.Join(labels[n+1:], ".")]; ok {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// Whatever hosts there are, names mean in DNS what they mean in the proxy.
func TestWildcardsAgainstProxy(t *testing.T) {
	var pool []string
	for _, a := range []string{"org", "x.org", "y.x.org", "x.x.org", "z.y.x.org", "x.y.x.org", "w.z.y.x.org"} {
		pool = append(pool, a, "*."+a)
	}
	var asked []string
	for _, name := range pool {
		name = strings.TrimPrefix(name, "*.")
		asked = append(asked, name, "q."+name, "r.q."+name)
	}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		model := make(map[string]netip.Addr)
		var hosts []host
		for n := range 1 + r.IntN(6) {
			name := pool[r.IntN(len(pool))]
			if _, ok := model[name]; ok {
				continue
			}
			model[name] = netip.AddrFrom4([4]byte{192, 0, 2, byte(n + 1)})
			hosts = append(hosts, host{name: name, addrs: []netip.Addr{model[name]}})
		}
		names := records(hosts, DefaultDomain, false)
		for _, name := range asked {
			var want []netip.Addr
			if addr, ok := proxy(model, name); ok {
				want = []netip.Addr{addr}
			}
			if got := find(names, name); !slices.Equal(got, want) {
				t.Fatalf("seed %d: %s is %v, want %v of %v", seed, name, got, want, model)
			}
		}
	}
}

// find is the look-up of DNS, RFC 4592 section 3.3.1 word by word.
func find(names map[string]record, name string) []netip.Addr {
	exists := func(name string) bool {
		for other := range names {
			if other == name || strings.HasSuffix(other, "."+name) {
				return true
			}
		}
		return false
	}
	if exists(name) {
		return names[name].addrs
	}
	encloser := parent(name)
	for encloser != "" && !exists(encloser) {
		encloser = parent(encloser)
	}
	return names["*."+encloser].addrs
}

// What the table makes of addresses, names, and of fields that are not known.
func TestParseTable(t *testing.T) {
	entry := func(fields ...[]byte) []byte {
		var value []byte
		for _, f := range fields {
			value = append(value, f...)
		}
		return appendBytes(nil, 1, appendBytes(appendString(nil, 1, "a.example.org"), 2, value))
	}
	one := appendString(nil, 1, "192.0.2.1")
	for _, tc := range []struct {
		name  string
		table []byte
		want  string // of hosts; or what the error has
	}{
		{"nothing", nil, ""},
		{"one", entry(one, appendString(nil, 2, "Kubernetes"), appendString(nil, 3, "a"), appendString(nil, 4, "shop"), appendString(nil, 5, "b")),
			`a.example.org [192.0.2.1] Kubernetes a shop ["b"]`},
		{"fields of a later version", append(appendString(nil, 9, "x"), entry(one, appendString(nil, 17, "x"), protowire.AppendVarint(protowire.AppendTag(nil, 18, protowire.VarintType), 7))...),
			"a.example.org [192.0.2.1]    []"},
		{"a field of another kind", entry(one, protowire.AppendFixed64(protowire.AppendTag(nil, 1, protowire.Fixed64Type), 7)), "a.example.org [192.0.2.1]    []"},
		{"an entry without a value", appendBytes(nil, 1, appendString(nil, 1, "a.example.org")), "a.example.org []    []"},
		{"addresses", entry(appendString(nil, 1, "192.0.2.0/24"), appendString(nil, 1, "::"), appendString(nil, 1, "fe80::1%eth0"), appendString(nil, 1, "::ffff:192.0.2.2"), one),
			"a.example.org [fe80::1 192.0.2.2 192.0.2.1]    []"},
		{"cut", entry(one)[:20], "unexpected EOF"},
		{"a tag of no field", []byte{0}, "invalid field number"},
		{"not UTF-8", entry(appendBytes(nil, 3, []byte{0xff})), `read name table: field 1: host "a.example.org": field 2: field 3: it is not UTF-8`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hosts, err := parseTable(tc.table)
			got := ""
			for _, h := range hosts {
				got += fmt.Sprintf("%s %v %s %s %s %q", h.name, texts(h.addrs), h.registry, h.short, h.space, h.also)
			}
			if err != nil {
				got = err.Error()
			}
			if got != tc.want && (err == nil || !strings.Contains(got, tc.want)) {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func texts(addrs []netip.Addr) []string {
	all := []string{}
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return all
}

// The same host in two forms is one name, with what both have.
func TestOneNameTwice(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	got := records([]host{{name: "a.example.org.", addrs: []netip.Addr{b, a}}, {name: "A.example.org", addrs: []netip.Addr{a}}, {name: ".", addrs: []netip.Addr{a}},
		{name: "b.example.org", addrs: []netip.Addr{a}}, {name: "b.example.org.", addrs: []netip.Addr{b}, registry: registryKubernetes}}, DefaultDomain, false)
	want := map[string]record{"a.example.org": {[]netip.Addr{a, b}, true}, "b.example.org": {[]netip.Addr{a, b}, false}}
	if !maps.EqualFunc(got, want, record.isSame) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Nothing that is sent brings us down, and what is taken is no more than was sent.
func FuzzResponse(f *testing.F) {
	f.Add(appendBytes(nil, 2, appendBytes(nil, 2, append(appendString(nil, 1, tableType), appendBytes(nil, 2, istiod.Table(f, mesh()))...))))
	f.Add([]byte("\x0b\x0c\x12\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, d := range []dialect{delta, whole} {
			r, err := d.response(b)
			if err != nil {
				continue
			}
			for _, one := range r.resources {
				hosts, err := parseTable(one.value)
				if err != nil {
					continue
				}
				for name, r := range records(hosts, DefaultDomain, true) {
					if len(name) > len(b)+len("..svc") || len(r.addrs) == 0 {
						t.Errorf("%q has %v", name, r)
					}
				}
			}
		}
	})
}
