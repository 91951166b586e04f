// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// dump is all of a table as zone-file lines behind their places.
func dump(t *Table) []string {
	var out []string
	for _, e := range given(t) {
		for _, line := range lines(rrs(e)) {
			out = append(out, e.place()+" "+line)
		}
	}
	return out
}

// given are the entries of a table in the order of their files' paths and lines, the
// longest name of a line first.
func given(t *Table) []*entry {
	var all []*entry
	for e := range t.names.all {
		if e.isGiven() {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.from.text(), b.from.text()), cmp.Compare(a.line, b.line), len(b.name)-len(a.name), cmp.Compare(a.name, b.name))
	})
	return all
}

// rrs are the records of an entry.
func rrs(e *entry) []dns.RR {
	var all []dns.RR
	for kind, rdata := range e.each {
		all = append(all, newRR(e.name.String(), kind, rdata, e.ttl))
	}
	return all
}

func hostsSource(data string) Source { return Source{"hosts", []byte(data), FormatHosts} }
func yamlSource(data string) Source  { return Source{"names.yaml", []byte(data), FormatYAML} }

func TestParseTable(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, tc := range []struct {
		name string
		src  Source
		want []string
	}{
		{"empty hosts", hostsSource(""), nil},
		{"empty YAML", yamlSource(""), nil},
		{"comments alone", yamlSource("# nothing\n"), nil},
		{"no names", yamlSource("ttl: 5\nnames:\n"), nil},
		{"hosts", hostsSource("# head\n192.0.2.1\tWeb.Example.org web # alias\r\n\n2001:db8::1 web.example.org.\n192.0.2.1 web.example.org\n"), []string{
			"hosts:2 web.example.org. 30 IN A 192.0.2.1",
			"hosts:2 web.example.org. 30 IN AAAA 2001:db8::1",
			"hosts:2 web. 30 IN A 192.0.2.1",
		}},
		{"hosts, a name below one that comes again", hostsSource("192.0.2.1 b\n192.0.2.2 a.b\n192.0.2.3 b\n"), []string{
			"hosts:1 b. 30 IN A 192.0.2.1",
			"hosts:1 b. 30 IN A 192.0.2.3",
			"hosts:2 a.b. 30 IN A 192.0.2.2",
		}},
		{"hosts without newline at the end", hostsSource("192.0.2.1 a"), []string{"hosts:1 a. 30 IN A 192.0.2.1"}},
		{"short form", yamlSource("names:\n  a.example.org: [192.0.2.1, 2001:db8::1]\n"), []string{
			"names.yaml:2 a.example.org. 30 IN A 192.0.2.1",
			"names.yaml:2 a.example.org. 30 IN AAAA 2001:db8::1",
		}},
		{"TTLs", yamlSource("names:\n  a.example.org: [192.0.2.1]\n  b.example.org: {a: [192.0.2.2], ttl: 0}\nttl: 77\n"), []string{
			"names.yaml:2 a.example.org. 77 IN A 192.0.2.1",
			"names.yaml:3 b.example.org. 0 IN A 192.0.2.2",
		}},
		{"all types", yamlSource("names:\n  a.example.org:\n    txt: [one, 2, \"" + long + "\"]\n    a: [192.0.2.1]\n    aaaa: [\"2001:db8::1\"]\n    srv:\n    - {target: b.example.org., port: 80}\n"), []string{
			"names.yaml:2 a.example.org. 30 IN A 192.0.2.1",
			"names.yaml:2 a.example.org. 30 IN AAAA 2001:db8::1",
			`names.yaml:2 a.example.org. 30 IN TXT "one"`,
			`names.yaml:2 a.example.org. 30 IN TXT "2"`,
			`names.yaml:2 a.example.org. 30 IN TXT "` + long[:255] + `" "` + long[255:] + `"`,
			"names.yaml:2 a.example.org. 30 IN SRV 0 0 80 b.example.org.",
		}},
		{"wildcard and underscore", yamlSource("names: {\"*._tcp.example.org\": {cname: x_y.example.org}}"), []string{
			"names.yaml:1 *._tcp.example.org. 30 IN CNAME x_y.example.org.",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table, err := ParseTable(tc.src)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(tc.want, dump(table)); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseTableErrors(t *testing.T) {
	label := strings.Repeat("a", 64)
	deep := strings.Repeat("abcdefg.", 32) // 256 octets
	for _, tc := range []struct {
		name string
		src  Source
		want string
	}{
		{"hosts: no address", hostsSource("web.example.org"), "hosts:1: \"web.example.org\" is not an IP address\nhosts:1: address \"web.example.org\" has no name"},
		{"hosts: no name", hostsSource("\n192.0.2.1 # web"), `hosts:2: address "192.0.2.1" has no name`},
		{"hosts: zone", hostsSource("fe80::1%lo a"), `hosts:1: address "fe80::1%lo" has a zone, which no record can carry`},
		{"hosts: mapped", hostsSource("::ffff:192.0.2.1 a"), `hosts:1: address "::ffff:192.0.2.1" is IPv4 in disguise: write 192.0.2.1`},
		{"hosts: two mistakes", hostsSource("192.0.2.1 a..b\n192.0.2.256 c"), "hosts:1: name \"a..b\": empty label\nhosts:2: \"192.0.2.256\" is not an IP address"},
		{"hosts: wildcard", hostsSource("192.0.2.1 *.example.org"), `hosts:1: name "*.example.org": character '*' is not a letter, digit, hyphen or underscore`},
		{"label", hostsSource("192.0.2.1 " + label), fmt.Sprintf("hosts:1: name %q: label of 64 octets, more than 63", label)},
		{"name", hostsSource("192.0.2.1 " + deep), fmt.Sprintf("hosts:1: name %q has 257 octets, more than 255", deep)},
		{"IDN", yamlSource("names: {bücher.example.org: [192.0.2.1]}"), "names.yaml:1: name \"bücher.example.org\": character 'Ã' is not a letter, digit, hyphen or underscore"},
		{"not YAML", yamlSource("names:\n  a: [192.0.2.1\n"), "names.yaml:2: not YAML: did not find expected ',' or ']'"},
		{"tabs", yamlSource("names:\n\ta: x\n"), "names.yaml:2: not YAML: found character that cannot start any token"},
		{"not a mapping", yamlSource("- a"), "names.yaml:1: the file is a list, not a mapping"},
		{"unknown key", yamlSource("ttl: 3\nname: {}\n"), `names.yaml:2: the file has no key "name" (it has ttl, authority, names)`},
		{"key twice", yamlSource("ttl: 3\nttl: 4\n"), `names.yaml:2: the file: key "ttl" is already in line 1`},
		{"second document", yamlSource("ttl: 3\n---\nttl: 4\n"), "names.yaml:2: a second document: one file has one"},
		{"TTL", yamlSource("ttl: -1"), `names.yaml:1: ttl is "-1", not a number from 0 to 2147483647`},
		{"TTL too large", yamlSource("ttl: 2147483648"), `names.yaml:1: ttl is "2147483648", not a number from 0 to 2147483647`},
		{"TTL with unit", yamlSource("ttl: 5m"), `names.yaml:1: ttl is "5m", not a number from 0 to 2147483647`},
		{"names is a list", yamlSource("names: [a]"), "names.yaml:1: names is a list, not a mapping"},
		{"name twice", yamlSource("names:\n  a.example.org: [192.0.2.1]\n  A.example.org.: [192.0.2.2]\n"), `names.yaml:3: name "A.example.org." is already in line 2`},
		{"entry is a word", yamlSource("names: {a: 192.0.2.1}"), `names.yaml:1: a is "192.0.2.1", not a list of addresses or a mapping`},
		{"entry is empty", yamlSource("names:\n  a:\n"), "names.yaml:2: a is empty, not a list of addresses or a mapping"},
		{"no records", yamlSource("names: {a: {ttl: 4}}"), "names.yaml:1: a has no records"},
		{"empty list", yamlSource("names: {a: []}"), "names.yaml:1: addresses is an empty list"},
		{"entry key", yamlSource("names: {a: {mx: [b]}}"), `names.yaml:1: a. has no key "mx" (it has ttl, cname, a, aaaa, txt, srv)`},
		{"alias of YAML", yamlSource("names:\n  a: &x [192.0.2.1]\n  b: *x\n"), "names.yaml:3: b is an alias, not a list of addresses or a mapping"},
		{"key is a list", yamlSource("names: {[a]: [192.0.2.1]}"), "names.yaml:1: names: a key is a list, not a word"},
		{"address", yamlSource("names:\n  a:\n  - 192.0.2.1\n  - web\n"), `names.yaml:4: "web" is not an IP address`},
		{"address is a list", yamlSource("names: {a: [[192.0.2.1]]}"), "names.yaml:1: addresses is a list, not a word"},
		{"address twice", yamlSource("names: {a: [192.0.2.1, 192.0.2.1]}"), "names.yaml:1: address 192.0.2.1 stands twice"},
		{"a with IPv6", yamlSource("names: {a: {a: [\"2001:db8::1\"]}}"), "names.yaml:1: 2001:db8::1 is not an IPv4 address: it belongs under aaaa"},
		{"aaaa with IPv4", yamlSource("names: {a: {aaaa: [192.0.2.1]}}"), "names.yaml:1: 192.0.2.1 is not an IPv6 address: it belongs under a"},
		{"a is a word", yamlSource("names: {a: {a: 192.0.2.1}}"), `names.yaml:1: a is "192.0.2.1", not a list`},
		{"txt is a mapping", yamlSource("names: {a: {txt: [{a: b}]}}"), "names.yaml:1: txt is a mapping, not a text"},
		{"cname beside", yamlSource("names: {a: {cname: b, a: [192.0.2.1]}}"), "names.yaml:1: a. has a cname and other records: a cname stands alone"},
		{"cname target", yamlSource("names: {a: {cname: \"*.b\"}}"), `names.yaml:1: cname: name "*.b": character '*' is not a letter, digit, hyphen or underscore`},
		{"cname goes round", yamlSource("names:\n  a: {cname: b}\n  b: {cname: a}\n"),
			"names.yaml:2: a.: cname goes round, or through more than 8 names\nnames.yaml:3: b.: cname goes round, or through more than 8 names"},
		{"cname goes round through a wildcard", yamlSource("names:\n  \"*.w\": {cname: x.w}\n"), "names.yaml:2: *.w.: cname goes round, or through more than 8 names"},
		{"wildcard inside", yamlSource("names: {a.*.b: [192.0.2.1]}"), `names.yaml:1: name "a.*.b": a wildcard is only the whole leftmost label, as in *.example.org`},
		{"wildcard in a label", yamlSource("names: {\"*a.b\": [192.0.2.1]}"), `names.yaml:1: name "*a.b": a wildcard is only the whole leftmost label, as in *.example.org`},
		{"srv without port", yamlSource("names: {a: {srv: [{target: b}]}}"), "names.yaml:1: srv needs target and port"},
		{"srv port", yamlSource("names: {a: {srv: [{target: b, port: 65536}]}}"), `names.yaml:1: port is "65536", not a number from 1 to 65535`},
		{"srv key", yamlSource("names: {a: {srv: [{target: b, port: 1, prio: 2}]}}"), `names.yaml:1: srv has no key "prio" (it has target, port, priority, weight)`},
		{"too much for one answer", yamlSource("names: {a: {txt: [" + strings.Repeat(strings.Repeat("x", 250)+", ", 250) + "]}}"), "names.yaml:1: a. has 66000 octets of records, more than 60000"},
		{"format", Source{"x", nil, 9}, "x:1: unknown format 9"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table, err := ParseTable(tc.src)
			if err == nil || table != nil {
				t.Fatalf("no error, table %v", table)
			}
			if diff := gocmp.Diff(tc.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

// All mistakes of all files come at once, and nothing of the good files is kept.
func TestParseTableErrorsOfAllFiles(t *testing.T) {
	table, err := ParseTable(hostsSource("192.0.2.1 good"), Source{"b", []byte("x y"), FormatHosts}, yamlSource("ttl: x"))
	want := "b:1: \"x\" is not an IP address\nnames.yaml:1: ttl is \"x\", not a number from 0 to 2147483647"
	if err == nil || table != nil || err.Error() != want {
		t.Errorf("table %v, error %v", table, err)
	}
}

func TestFirstFileWins(t *testing.T) {
	table, err := ParseTable(hostsSource("192.0.2.1 a.example.org\n"),
		yamlSource("names:\n  b.example.org: [192.0.2.2]\n  A.example.org: [192.0.2.3]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"hosts:1 a.example.org. 30 IN A 192.0.2.1", "names.yaml:2 b.example.org. 30 IN A 192.0.2.2"}
	if diff := gocmp.Diff(want, dump(table)); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	warnings := []string{"names.yaml:3: a.example.org. is already in hosts:1, which wins"}
	if diff := gocmp.Diff(warnings, table.Warnings()); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	if table.Names() != 2 {
		t.Errorf("Names() = %d", table.Names())
	}
}

func TestDerivedPointers(t *testing.T) {
	var crowd strings.Builder
	for i := range maxPointers + 3 {
		fmt.Fprintf(&crowd, "192.0.2.5 n%d.example.org\n", i)
	}
	table, err := ParseTable(hostsSource("192.0.2.1 a.example.org alias\n192.0.2.1 b.example.org\n0.0.0.0 blocked.example.org\n"+crowd.String()),
		yamlSource("names:\n  c.example.org: [192.0.2.1, 192.0.2.3]\n  3.2.0.192.in-addr.arpa: {txt: [mine]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	pointers := func(addr string) []string {
		reverse, err := dns.ReverseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range pointersOf(table.find([]byte(fromRR(reverse))).reverse) {
			names = append(names, p.name.String())
		}
		return names
	}
	if table, err := ParseTable(hostsSource("192.0.2.1 b\n192.0.2.2 a.b\n192.0.2.3 b\n")); err != nil || !table.find([]byte(fromRR("3.2.0.192.in-addr.arpa"))).ok() {
		t.Errorf("an address on a later line gives nothing back (%v)", err)
	}
	if diff := gocmp.Diff([]string{"a.example.org.", "b.example.org.", "c.example.org."}, pointers("192.0.2.1")); diff != "" {
		t.Errorf("in file order, without aliases (-want +got):\n%s", diff)
	}
	for addr, want := range map[string]int{"0.0.0.0": 0, "192.0.2.3": 0, "192.0.2.5": maxPointers, "192.0.2.9": 0} {
		if got := len(pointers(addr)); got != want {
			t.Errorf("%s gives %d names back, want %d", addr, got, want)
		}
	}
}

func TestSearchSuffixes(t *testing.T) {
	list, bad := parseSuffixes([]string{"Example.org", ".", "a..b", "svc.cluster.local."})
	if diff := gocmp.Diff(suffixes{"\x07example\x03org\x00", "\x03svc\x07cluster\x05local\x00"}, list); diff != "" {
		t.Errorf("suffixes (-want +got):\n%s", diff)
	}
	if len(bad) != 1 {
		t.Errorf("bad: %v", bad)
	}
	// "\x0bxexample" is one label that merely ends in the octets of the suffix.
	if short, ok := wireName("\x0cwww\x07example\x03org\x00").without("\x07example\x03org\x00"); ok {
		t.Errorf("cut a label apart: %q", short)
	}
}

// Beside its own octets a name of a large table takes 200 at most, what its address gives
// back included.
func TestTableMemory(t *testing.T) {
	const n = 100_000
	own := 0
	for i := range n {
		own += len(testenv.MeshName(i)) + 2
	}
	for name, format := range map[string]Format{"hosts": FormatHosts, "YAML": FormatYAML} {
		src := manyNames(n, format)
		before := testenv.Heap()
		table, err := ParseTable(src)
		if err != nil {
			t.Fatal(err)
		}
		if each := (int(testenv.Heap()-before) - own) / n; each > 200 || each < 20 {
			t.Errorf("%s: %d octets a name", name, each)
		}
		runtime.KeepAlive(table)
		runtime.KeepAlive(src)
	}
}
