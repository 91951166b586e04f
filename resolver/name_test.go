// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseName(t *testing.T) {
	label := strings.Repeat("a", maxLabel)
	longest := strings.Repeat(label+".", 3) + strings.Repeat("b", 61)
	for in, want := range map[string]string{
		"a":              "a.",
		"A.Example.ORG":  "a.example.org.",
		"a.example.org.": "a.example.org.",
		"_dns._udp.x-1":  "_dns._udp.x-1.",
		label:            label + ".",
		longest:          longest + ".",
	} {
		got, err := parseName(in)
		if err != nil || got.String() != want {
			t.Errorf("parseName(%q) = %s, %v", in, got, err)
		}
	}
	for _, in := range []string{"", ".", "..", "a..b", ".a", "a b", "a/b", `a\.b`, label + "a", longest + "b", "*.a", "é"} {
		if got, err := parseName(in); err == nil {
			t.Errorf("parseName(%q) = %s", in, got)
		}
	}
}

func TestParseWild(t *testing.T) {
	for in, want := range map[string]string{"*.a.example": "*.a.example.", "a.example": "a.example.", "*.a.": "*.a."} {
		got, err := parseWild(in)
		if err != nil || got.String() != want || got.isWild() != strings.HasPrefix(want, "*") {
			t.Errorf("parseWild(%q) = %s, %v", in, got, err)
		}
	}
	long := strings.Repeat(strings.Repeat("a", maxLabel)+".", 3) + strings.Repeat("b", 61)
	for _, in := range []string{"*", "*.", "*.*.a", "a.*", "a*.b", "*." + long} {
		if got, err := parseWild(in); err == nil {
			t.Errorf("parseWild(%q) = %s", in, got)
		}
	}
}

func TestParents(t *testing.T) {
	name, err := parseName("www.example.org")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for ; name != ""; name = name.parent() {
		got = append(got, name.String())
	}
	if diff := cmp.Diff([]string{"www.example.org.", "example.org.", "org.", "."}, got); diff != "" {
		t.Errorf("ancestors (-want +got):\n%s", diff)
	}
}

// Case is folded for letters alone (RFC 4343): '@' and '`', '[' and '{' also differ
// by the bit of case.
func TestSameFold(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"abc", "ABC", true}, {"aZ", "Az", true}, {"", "", true}, {"-1", "-1", true},
		{"abc", "abd", false}, {"abc", "ab", false}, {"@", "`", false}, {"[", "{", false}, {"\x00", " ", false}, {"\xc1", "\xe1", false},
	} {
		if got := sameFold([]byte(tc.a), []byte(tc.b)); got != tc.want {
			t.Errorf("sameFold(%q, %q) = %t", tc.a, tc.b, got)
		}
	}
}

// Names that loop, are too long, or go through more pointers than a name has labels, are
// refused: RFC 1035 sections 2.3.4 and 4.1.4, RFC 9267 sections 2 and 3.
func TestSkipName(t *testing.T) {
	head := strings.Repeat("\x00", headerLen)
	// pointers are so many, the first to a root, each other one to the one before.
	pointers := func(n int) string {
		wire, to := []byte{0}, headerLen
		for range n {
			wire = binary.BigEndian.AppendUint16(wire, uint16(0xc000|to))
			to = headerLen + len(wire) - 2
		}
		return string(wire)
	}
	for _, tc := range []struct {
		name string
		wire string
		off  int
		end  int // 0: refused
	}{
		{"root", head + "\x00", 12, 13},
		{"name", head + "\x01a\x00", 12, 15},
		{"pointer", head + "\x01a\x00\xc0\x0c", 15, 17},
		{"label and pointer", head + "\x01a\x00\x01b\xc0\x0c", 15, 19},
		{"pointer to pointer", head + "\x01a\x00\xc0\x0c\xc0\x0f", 17, 19},
		{"as many pointers as labels", head + pointers(maxHops), 13 + 2*(maxHops-1), 13 + 2*maxHops},
		{"one more", head + pointers(maxHops+1), 13 + 2*maxHops, 0},
		{"to itself", head + "\xc0\x0c", 12, 0},
		{"forward", head + "\xc0\x0e\x00", 12, 0},
		{"loop of two", head + "\x01a\xc0\x10\x01b\xc0\x0c", 16, 0},
		{"into the header", head + "\xc0\x0b", 12, 0},
		{"cut behind a label", head + "\x01a", 12, 0},
		{"cut in a label", head + "\x05a", 12, 0},
		{"cut in a pointer", head + "\xc0", 12, 0},
		{"0x40", head + "\x41a\x00", 12, 0},
		{"0x80", head + "\x81a\x00", 12, 0},
		{"255 octets", head + strings.Repeat("\x01a", 127) + "\x00", 12, 12 + 255},
		{"257 octets", head + strings.Repeat("\x01a", 128) + "\x00", 12, 0},
		{"too long by a pointer", head + strings.Repeat("\x01a", 127) + "\x00\x01b\xc0\x0c", 12 + 255, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			end, err := skipName([]byte(tc.wire), tc.off)
			if (err != nil) != (tc.end == 0) || end != tc.end {
				t.Errorf("end %d, %v; want %d", end, err, tc.end)
			}
		})
	}
}

// owner walks pointers and folds case.
func TestOwner(t *testing.T) {
	wire := append(raw(t, "1234 8000 0001 0001 0000 0000 "+questionHex), raw(t, "0142 c00e 0001 0001 00000005 0004 c0000201")...)
	m, err := parseMessage(wire)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.owner(m.records[0]).String(); got != "b.example.org." {
		t.Errorf("owner %s", got)
	}
}
