// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The shapes of a YAML file, read strictly: what is not understood is refused with
// its line.

// field is a key of a mapping and what reads its value.
type field struct {
	key  string
	read func(value *yaml.Node)
}

// mapping reads the fields of a mapping in the order in which they are listed, and
// refuses other keys, and keys that stand twice.
func (y *yamlFile) mapping(n *yaml.Node, what string, fields ...field) bool {
	pairs, ok := y.pairs(n, what)
	known := make([]string, 0, len(fields))
	for _, f := range fields {
		known = append(known, f.key)
		for _, p := range pairs {
			if p.key.Value == f.key {
				f.read(p.value)
			}
		}
	}
	for _, p := range pairs {
		if !slices.Contains(known, p.key.Value) {
			y.errorf(p.key, "%s has no key %q (it has %s)", what, p.key.Value, strings.Join(known, ", "))
		}
	}
	return ok
}

type pair struct{ key, value *yaml.Node }

func (y *yamlFile) pairs(n *yaml.Node, what string) ([]pair, bool) {
	if n.Kind != yaml.MappingNode {
		y.errorf(n, "%s is %s, not a mapping", what, kindOf(n))
		return nil, false
	}
	var pairs []pair
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			y.errorf(key, "%s: a key is %s, not a word", what, kindOf(key))
			continue
		}
		if line, twice := seen[key.Value]; twice {
			y.errorf(key, "%s: key %q is already in line %d", what, key.Value, line)
			continue
		}
		seen[key.Value] = key.Line
		pairs = append(pairs, pair{key, n.Content[i+1]})
	}
	return pairs, true
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias" // never followed: a few lines of them can mean gigabytes
	case n.Tag == "!!null":
		return "empty"
	}
	return fmt.Sprintf("%q", n.Value)
}

// items calls read for each element of a list.
func (y *yamlFile) items(n *yaml.Node, what string, read func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		y.errorf(n, "%s is %s, not a list", what, kindOf(n))
		return
	}
	if len(n.Content) == 0 {
		y.errorf(n, "%s is an empty list", what)
	}
	for _, item := range n.Content {
		read(item)
	}
}

// host reads a name that a record points at.
func (y *yamlFile) host(n *yaml.Node, what string) (wireName, bool) {
	s, ok := y.word(n, what)
	if !ok {
		return "", false
	}
	name, err := parseName(s)
	if err != nil {
		y.errorf(n, "%s: %w", what, err)
		return "", false
	}
	return name, true
}

func (y *yamlFile) word(n *yaml.Node, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		y.errorf(n, "%s is %s, not a word", what, kindOf(n))
		return "", false
	}
	return n.Value, true
}

// number reads a decimal number; quoted ones are as good.
func (y *yamlFile) number(n *yaml.Node, what string, low, high uint32) uint32 {
	s, ok := y.word(n, what)
	if !ok {
		return low
	}
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil || uint32(v) < low || uint32(v) > high {
		y.errorf(n, "%s is %q, not a number from %d to %d", what, s, low, high)
		return low
	}
	return uint32(v)
}
