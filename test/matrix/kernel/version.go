// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"strings"
)

// Compare tells which of two minor versions is older, as cmp.Compare does.
func Compare(a, b string) int { return compareVersions(a, b) }

// compareVersions orders versions of Debian packages (deb-version(7)), without
// epochs, which kernels do not have: alternately the longest part without digits and
// the longest number, where a tilde is before everything, even the end.
func compareVersions(a, b string) int {
	for a != "" || b != "" {
		var wordA, wordB, numberA, numberB string
		wordA, a = split(a, false)
		wordB, b = split(b, false)
		if c := compareWords(wordA, wordB); c != 0 {
			return c
		}
		numberA, a = split(a, true)
		numberB, b = split(b, true)
		numberA, numberB = strings.TrimLeft(numberA, "0"), strings.TrimLeft(numberB, "0")
		if c := cmp.Or(cmp.Compare(len(numberA), len(numberB)), strings.Compare(numberA, numberB)); c != 0 {
			return c
		}
	}
	return 0
}

// split cuts off the longest beginning that is all digits, or has none.
func split(s string, digits bool) (head, tail string) {
	i := strings.IndexFunc(s, func(r rune) bool { return (r >= '0' && r <= '9') != digits })
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

func compareWords(a, b string) int {
	for i := 0; i < max(len(a), len(b)); i++ {
		if c := cmp.Compare(weight(a, i), weight(b, i)); c != 0 {
			return c
		}
	}
	return 0
}

// weight sorts the tilde before the end, the end before letters, and letters before
// all else.
func weight(s string, i int) int {
	if i >= len(s) {
		return 0
	}
	switch c := s[i]; {
	case c == '~':
		return -1
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return int(c)
	default:
		return int(c) + 256
	}
}
