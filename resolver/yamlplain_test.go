// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// The plain form of a file is read without the YAML package, everything else with it,
// and nobody sees a difference.
func TestPlainYAML(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		plain      bool
	}{
		{"names", "names:\n  a.example.org: [192.0.2.1]\n  B.example.org.: [192.0.2.2,192.0.2.3 ,  \"2001:db8::1\"]\n", true},
		{"TTL, comments, no last newline", "# head\n\nttl: 7\nnames:\n# all of them\n  \"*.x\": [\"192.0.2.1\"]\n   # deep\n  _y: [192.0.2.1]", true},
		{"authority", "authority: [example.org, \"Example.net.\"]\nttl: 7\nnames:\n  a: [192.0.2.1]\n", true},
		{"authority alone", "authority: [example.org]\n", false},
		{"authority behind", "names:\n  a: [192.0.2.1]\nauthority: [example.org]\n", false},
		{"authority twice", "authority: [example.org]\nauthority: [example.net]\nnames:\n  a: [192.0.2.1]\n", false},
		{"authority of a name twice", "authority: [example.org, Example.org]\nnames:\n  a: [192.0.2.1]\n", false},
		{"authority of nothing", "authority: []\nnames:\n  a: [192.0.2.1]\n", false},
		{"authority of no word", "authority: [null]\nnames:\n  a: [192.0.2.1]\n", false},
		{"authority of a wildcard", "authority: [\"*.example.org\"]\nnames:\n  a: [192.0.2.1]\n", false},
		{"other indentation", "names:\n a: [192.0.2.1]\n  b: [192.0.2.1]\n", false},
		{"no indentation", "names:\na: [192.0.2.1]\n", false},
		{"no names", "names:\n", false},
		{"TTL behind", "names:\n  a: [192.0.2.1]\nttl: 7\n", false},
		{"TTL twice", "ttl: 7\nttl: 7\nnames:\n  a: [192.0.2.1]\n", false},
		{"TTL too large", "ttl: 2147483648\nnames:\n  a: [192.0.2.1]\n", false},
		{"IPv6 without quotes", "names:\n  a: [2001:db8::1]\n", false},
		{"comment behind", "names:\n  a: [192.0.2.1] # b\n", false},
		{"mapping", "names:\n  a: {a: [192.0.2.1]}\n", false},
		{"many lines", "names:\n  a:\n  - 192.0.2.1\n  b: [192.0.2.1,\n    192.0.2.2]\n", false},
		{"a comma too many", "names:\n  a: [192.0.2.1, ]\n", false},
		{"carriage returns", "names:\r\n  a: [192.0.2.1]\r\n", false},
		{"document mark", "---\nnames:\n  a: [192.0.2.1]\n", false},
		{"escape", "names:\n  \"\\x61\": [192.0.2.1]\n", false},
		{"address twice", "names:\n  a: [192.0.2.1, 192.0.2.1]\n", false},
		{"not a name", "names:\n  -a..b: [192.0.2.1]\n", false},
		{"name twice", "names:\n  a: [192.0.2.1]\n  A: [192.0.2.1]\n  b: [192.0.2.1]\n", true},
		{"name twice that an earlier file has", "names:\n  before: [192.0.2.1]\n  before.: [192.0.2.1]\n", true},
		{"name of an earlier file", "names:\n  before: [192.0.2.1]\n  a: [192.0.2.1]\n", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if plain := comparePlain(t, []byte(tc.text)); plain != tc.plain {
				t.Errorf("read as plain: %v", plain)
			}
		})
	}
}

// comparePlain reads a file both ways, behind one that has a name already, and tells
// whether it is plain.
func comparePlain(t *testing.T, data []byte) bool {
	t.Helper()
	read := func(as func(d *draft) error) (table []string, warnings []string, err error) {
		d := new(Table).draft()
		if err := d.read(hostsSource("192.0.2.9 before")); err != nil {
			t.Fatal(err)
		}
		if err := as(d); err != nil {
			return nil, nil, err
		}
		d.addGathered()
		table = dump(&d.Table)
		for _, name := range slices.Sorted(maps.Keys(d.declared)) {
			table = append(table, fmt.Sprintf("%s: %s, TTL %d", d.declared[name].place(), name, d.declared[name].ttl))
		}
		return table, d.warnings, nil
	}
	want, wantWarnings, wantErr := read(func(d *draft) error { return d.readNodes("names.yaml", data) })
	got, gotWarnings, err := read(func(d *draft) error { return d.readYAML("names.yaml", data) })
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	if text(err) != text(wantErr) {
		t.Errorf("error %q, with the YAML package %q", text(err), text(wantErr))
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("table (-YAML package +ours):\n%s", diff)
	}
	if diff := gocmp.Diff(wantWarnings, gotWarnings); diff != "" {
		t.Errorf("warnings (-YAML package +ours):\n%s", diff)
	}
	_, plain := readPlain(&Origin{path: "names.yaml"}, data)
	return plain
}

// FuzzPlainYAML looks for a file that means something else to the YAML package.
func FuzzPlainYAML(f *testing.F) {
	f.Add([]byte("# head\nttl: 7\nnames:\n  a.b: [192.0.2.1, \"2001:db8::1\"]\n  \"*.x\": [192.0.2.2]\n"))
	f.Add([]byte("authority: [a.b, \"c.\", 1.0]\nnames:\n  a.b: [192.0.2.1]\n"))
	f.Add([]byte("names:\n 1.0: [192.0.2.1]\n null: [192.0.2.1]\n _: [ \"192.0.2.1\" ,192.0.2.2]\n before: [1.1.1.1]\n"))
	f.Fuzz(func(t *testing.T, data []byte) { comparePlain(t, data) })
}
