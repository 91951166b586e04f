// SPDX-License-Identifier: Apache-2.0

package resolver

import "testing"

// A target comes back whole, whatever it has in common with its owner, and takes few
// octets where that is much.
func TestSRVIsPackedByOwner(t *testing.T) {
	for _, tc := range []struct {
		owner, target string
		octets        int // beside the fixed ones
	}{
		{"_http._tcp.web.default.svc.example.org", "web.default.svc.example.org", 2},
		{"_http._tcp.web.default.svc.example.org", "10-0-0-1.web.default.svc.example.org", 2 + 9},
		{"web.example.org", "web.example.org", 2},
		{"web.example.org", "eb.example.org", 2 + 3}, // the octets agree, the labels do not
		{"eb.example.org", "web.example.org", 2 + 4},
		{"web.example.org", "web.example.net", 2 + 16},
		{"*.example.org", "a.b.example.org", 2 + 4},
		{"org", "example.org", 2 + 8},
	} {
		owner, err := parseWild(tc.owner)
		if err != nil {
			t.Fatal(err)
		}
		packed := records(appendSRV(nil, owner, 1, 2, 258, fromRR(tc.target)))
		if got := len(packed) - 1 - srvFixed; got != tc.octets {
			t.Errorf("%s of %s: %d octets, not %d", tc.target, tc.owner, got, tc.octets)
		}
		e := &entry{name: owner, records: packed + packed}
		count := 0
		for kind, rdata := range e.each {
			count++
			if want := "\x00\x01\x00\x02\x01\x02" + string(fromRR(tc.target)); kind != kindSRV || rdata != want {
				t.Errorf("%s of %s: %q, not %q", tc.target, tc.owner, rdata, want)
			}
		}
		if count != 2 {
			t.Errorf("%s of %s: %d records", tc.target, tc.owner, count)
		}
	}
}

// Records that are packed alike are not the same under another owner.
func TestSRVOfAnotherOwner(t *testing.T) {
	entryOf := func(owner, target string) *entry {
		name, err := parseWild(owner)
		if err != nil {
			t.Fatal(err)
		}
		return &entry{name: name, from: new(Origin), records: records(appendSRV(nil, name, 0, 0, 80, fromRR(target)))}
	}
	a, b := entryOf("*.org", "t.org"), entryOf("*.a.org", "t.a.org")
	if a.records != b.records {
		t.Fatalf("packed %q and %q: the test needs them alike", a.records, b.records)
	}
	if a.says(b) || !a.says(entryOf("*.org", "t.org")) {
		t.Error("two owners say the same, or one does not")
	}
}
