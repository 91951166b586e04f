// SPDX-License-Identifier: Apache-2.0

package resolver

import "strings"

// suffixes are the search domains of a client, in wire form.
type suffixes []wireName

// parseSuffixes takes what resolv.conf has. What is no name is of no use to the
// client either and comes back in bad; the root expands nothing.
func parseSuffixes(search []string) (list suffixes, bad []error) {
	for _, s := range search {
		if s == "." {
			continue
		}
		name, err := parseName(s)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		list = append(list, name)
	}
	return list, bad
}

// expanded finds the entry whose name a client's stub has completed with one of its
// search domains, and that name without the domain.
func (t *Table) expanded(name wireName, search suffixes) (*entry, wireName) {
	for _, suffix := range search {
		short, ok := name.without(suffix)
		if !ok {
			continue
		}
		if e := t.find(short); e != nil {
			return e, short
		}
	}
	return nil, ""
}

// without cuts a suffix of whole labels and makes what is left absolute.
func (n wireName) without(suffix wireName) (wireName, bool) {
	front, ok := strings.CutSuffix(string(n), string(suffix))
	if !ok || front == "" {
		return "", false
	}
	// The octets may agree and the labels not: walk them.
	i := 0
	for i < len(front) {
		i += 1 + int(front[i])
	}
	if i != len(front) {
		return "", false
	}
	return wireName(front) + rootName, true
}
