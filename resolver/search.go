// SPDX-License-Identifier: Apache-2.0

package resolver

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

// without cuts a suffix of whole labels and makes what is left absolute.
func (n wireName) without(suffix wireName) (wireName, bool) {
	at := suffixAt(n, suffix)
	if at <= 0 {
		return "", false
	}
	return n[:at] + rootName, true
}

// suffixAt is where a suffix of whole labels begins, -1 if the name has another end.
func suffixAt[N ~string | ~[]byte](name N, suffix wireName) int {
	at := len(name) - len(suffix)
	if at < 0 || string(name[at:]) != string(suffix) {
		return -1
	}
	// The octets may agree and the labels not: walk them.
	i := 0
	for i < at {
		i += 1 + int(name[i])
	}
	if i != at {
		return -1
	}
	return at
}
