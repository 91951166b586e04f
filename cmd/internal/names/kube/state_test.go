// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// What was packed comes back as it was, and only what is the same is packed the same.
func TestPacked(t *testing.T) {
	addrs := parseAddrs([]string{"10.96.0.1", "2001:db8::1"})
	ports := []port{{"http", "tcp", 80}, {"dns", "udp", 65535}, {"x", "other", 1}, {"y", "sctp", 2}}
	seen := make(map[packed]int)
	for i, s := range []*service{
		{}, {headless: true}, {external: "a.example.org"}, {addrs: addrs}, {addrs: addrs[:1]}, {addrs: addrs[1:]},
		{addrs: addrs, ports: ports}, {ports: ports[:1]}, {headless: true, ports: ports},
	} {
		p := s.pack()
		if got := p.service(); !reflect.DeepEqual(got, s) {
			t.Errorf("service %d: %+v became %+v", i, s, got)
		}
		if other, ok := seen[p]; ok {
			t.Errorf("services %d and %d are packed the same", other, i)
		}
		seen[p] = i
	}
	of := key{"ns", "web"}
	var many []endpoint
	for i := range 300 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		many = append(many, endpoint{hostnameOf(a), []netip.Addr{a}})
	}
	clear(seen)
	for i, s := range []*slice{
		{service: of}, {service: of, from: "east"}, {service: of, ports: ports},
		{service: of, endpoints: []endpoint{{"web-0", addrs}, {hostnameOf(addrs[1]), addrs[1:]}}},
		{service: of, endpoints: []endpoint{{"web-0", addrs[:1]}, {"web-1", addrs[1:]}}},
		{service: of, from: "east", ports: ports, endpoints: many},
	} {
		p := s.pack()
		if got := p.slice(of); !reflect.DeepEqual(got, s) {
			t.Errorf("slice %d: %+v became %+v", i, s, got)
		}
		if other, ok := seen[p]; ok {
			t.Errorf("slices %d and %d are packed the same", other, i)
		}
		seen[p] = i
	}
}

// Slices come, change, go, and move between Services and between two watches that tell of
// them in any order.
func TestSlicesOfTwoWatches(t *testing.T) {
	st := newState()
	web, db := key{"ns", "web"}, key{"ns", "db"}
	st.setService(web, &service{headless: true}, func(key) {})
	st.setService(db, &service{headless: true}, func(key) {})
	var told []key
	set := func(kind int, name string, of key, from string) {
		var s *slice
		if from != "" {
			s = &slice{service: of, from: from}
		}
		st.setSlice(kind, key{"ns", name}, s, func(k key) { told = append(told, k) })
	}
	check := func(step, wantWeb, wantDB string, changed ...key) {
		t.Helper()
		has := func(k key) (all string) {
			v, _ := st.view(k)
			for _, s := range v.slices {
				all += fmt.Sprint(s.from, " ")
			}
			return all
		}
		if has(web) != wantWeb || has(db) != wantDB || !slices.Equal(told, changed) {
			t.Errorf("%s: web %q, db %q, changed %v", step, has(web), has(db), told)
		}
		told = nil
	}
	set(0, "x", web, "1")
	set(0, "b", web, "2")
	set(0, "k", web, "3")
	check("three", "2 3 1 ", "", web, web, web)
	set(0, "k", web, "3")
	check("the same again", "2 3 1 ", "")
	set(0, "k", web, "4")
	check("changed", "2 4 1 ", "", web, web)
	set(0, "b", db, "5")
	check("of another Service", "4 1 ", "5 ", web, db)
	set(1, "x", web, "1")
	check("told of by another watch", "4 1 ", "5 ")
	set(0, "x", web, "")
	check("gone from the first watch", "4 1 ", "5 ")
	if got := slices.Collect(st.slicesOf(1)); !slices.Equal(got, []key{{"ns", "x"}}) {
		t.Errorf("of the second watch: %v", got)
	}
	set(1, "x", web, "")
	set(0, "k", web, "")
	set(0, "b", db, "")
	set(0, "b", db, "")
	check("gone", "", "", web, web, db)
	if len(st.slices)+len(st.of) > 0 {
		t.Errorf("left: %v %v", st.slices, st.of)
	}
}
