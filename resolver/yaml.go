// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	"go.yaml.in/yaml/v3"
)

// maxTTL is the largest TTL there is (RFC 2181 section 8).
const maxTTL = 1<<31 - 1

// parseYAML reads the strict YAML form of resolver/README.md. It walks nodes, not
// structs, so that every message has the line of what it is about.
func parseYAML(path string, data []byte) ([]*entry, error) {
	y := &yamlFile{path: path, ttl: defaultTTL}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil // an empty file is an empty table
	} else if err != nil {
		return nil, syntaxError(path, err)
	}
	for _, n := range doc.Content {
		y.root(n)
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		y.errorf(&second, "a second document: one file has one")
	} else if !errors.Is(err, io.EOF) {
		y.errs = append(y.errs, syntaxError(path, err))
	}
	return y.entries, errors.Join(y.errs...)
}

// The YAML package has no type for the place of a mistake, so yamlLine finds it in
// the words; and what its parser, unlike its scanner, complains of is counted from
// line zero. yamlParser knows the parser's complaints.
var (
	yamlLine   = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)
	yamlParser = regexp.MustCompile(`^did not find expected (?:node content|key|'-' indicator|',' or|<)`)
)

func syntaxError(path string, err error) error {
	text, _, _ := strings.Cut(err.Error(), "\n")
	line := 1
	if m := yamlLine.FindStringSubmatch(text); m != nil && m[1] != "" {
		text = m[2]
		line, _ = strconv.Atoi(m[1]) // the pattern has digits only
		if yamlParser.MatchString(text) {
			line++
		}
	}
	return fmt.Errorf("%s:%d: not YAML: %s", path, line, strings.TrimPrefix(text, "yaml: "))
}

type yamlFile struct {
	path    string
	ttl     uint32
	entries []*entry
	errs    []error
}

func (y *yamlFile) errorf(n *yaml.Node, format string, args ...any) {
	y.errs = append(y.errs, place{y.path, max(n.Line, 1)}.errorf(format, args...))
}

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

func (y *yamlFile) root(n *yaml.Node) {
	if n.Tag == "!!null" {
		return // comments alone
	}
	y.mapping(n, "the file",
		field{"ttl", func(v *yaml.Node) { y.ttl = y.number(v, "ttl", 0, maxTTL) }},
		field{"names", y.names})
}

func (y *yamlFile) names(n *yaml.Node) {
	if n.Tag == "!!null" {
		return
	}
	pairs, _ := y.pairs(n, "names")
	first := make(map[wireName]int)
	for _, p := range pairs {
		name, err := parseWild(p.key.Value)
		if err != nil {
			y.errorf(p.key, "%w", err)
			continue
		}
		// Not equal as keys, but equal as names: another case, a final dot.
		if line, twice := first[name]; twice {
			y.errorf(p.key, "name %q is already in line %d", p.key.Value, line)
			continue
		}
		first[name] = p.key.Line
		y.entry(p.key, name, p.value)
	}
}

func (y *yamlFile) entry(key *yaml.Node, name wireName, value *yaml.Node) {
	e := &entry{name: name, place: place{y.path, key.Line}, ttl: y.ttl}
	before := len(y.errs)
	switch value.Kind {
	case yaml.SequenceNode:
		y.addresses(e, value, "")
	case yaml.MappingNode:
		y.records(e, value)
	default:
		y.errorf(value, "%s is %s, not a list of addresses or a mapping", key.Value, kindOf(value))
	}
	if len(e.records) == 0 && len(y.errs) == before {
		y.errorf(key, "%s has no records", key.Value)
	}
	y.entries = append(y.entries, e)
}

func (y *yamlFile) records(e *entry, n *yaml.Node) {
	y.mapping(n, e.name.String(),
		field{"ttl", func(v *yaml.Node) { e.ttl = y.number(v, "ttl", 0, maxTTL) }},
		field{"cname", func(v *yaml.Node) { y.cname(e, v) }},
		field{"a", func(v *yaml.Node) { y.addresses(e, v, "a") }},
		field{"aaaa", func(v *yaml.Node) { y.addresses(e, v, "aaaa") }},
		field{"txt", func(v *yaml.Node) { y.texts(e, v) }},
		field{"srv", func(v *yaml.Node) { y.services(e, v) }})
	if _, ok := e.alias(); ok && len(e.records) > 1 {
		y.errorf(n, "%s has a cname and other records: a cname stands alone", e.name)
	}
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

// addresses reads a list of addresses; family is "a", "aaaa" or empty for both.
func (y *yamlFile) addresses(e *entry, n *yaml.Node, family string) {
	what := "addresses"
	if family != "" {
		what = family
	}
	y.items(n, what, func(item *yaml.Node) {
		s, ok := y.word(item, what)
		if !ok {
			return
		}
		addr, err := parseAddr(s)
		switch {
		case err != nil:
			y.errorf(item, "%w", err)
		case family == "a" && !addr.Is4():
			y.errorf(item, "%s is not an IPv4 address: it belongs under aaaa", addr)
		case family == "aaaa" && !addr.Is6():
			y.errorf(item, "%s is not an IPv6 address: it belongs under a", addr)
		case e.hasAddress(addr):
			y.errorf(item, "address %s stands twice", addr)
		default:
			y.address(e, addr)
		}
	})
}

func (y *yamlFile) address(e *entry, addr netip.Addr) {
	e.records = append(e.records, addressRR(e.name, addr, e.ttl))
	if !e.name.isWild() {
		e.pointers = append(e.pointers, addr)
	}
}

func (y *yamlFile) cname(e *entry, n *yaml.Node) {
	if target, ok := y.host(n, "cname"); ok {
		e.records = append(e.records, &dns.CNAME{Hdr: header(e.name, dns.TypeCNAME, e.ttl), Target: target.String()})
	}
}

func (y *yamlFile) texts(e *entry, n *yaml.Node) {
	y.items(n, "txt", func(item *yaml.Node) {
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
			y.errorf(item, "txt is %s, not a text", kindOf(item))
			return
		}
		e.records = append(e.records, &dns.TXT{Hdr: header(e.name, dns.TypeTXT, e.ttl), Txt: textStrings(item.Value)})
	})
}

// textStrings cuts a text into character-strings of 255 octets, escaped as the DNS
// package wants them.
func textStrings(s string) []string {
	var parts []string
	for len(s) > 255 {
		parts = append(parts, strings.ReplaceAll(s[:255], `\`, `\\`))
		s = s[255:]
	}
	return append(parts, strings.ReplaceAll(s, `\`, `\\`))
}

func (y *yamlFile) services(e *entry, n *yaml.Node) {
	y.items(n, "srv", func(item *yaml.Node) {
		srv := &dns.SRV{Hdr: header(e.name, dns.TypeSRV, e.ttl)}
		before := len(y.errs)
		ok := y.mapping(item, "srv",
			field{"target", func(v *yaml.Node) {
				target, _ := y.host(v, "target")
				srv.Target = target.String()
			}},
			field{"port", func(v *yaml.Node) { srv.Port = uint16(y.number(v, "port", 1, 65535)) }},
			field{"priority", func(v *yaml.Node) { srv.Priority = uint16(y.number(v, "priority", 0, 65535)) }},
			field{"weight", func(v *yaml.Node) { srv.Weight = uint16(y.number(v, "weight", 0, 65535)) }})
		if ok && len(y.errs) == before && (srv.Target == "" || srv.Port == 0) {
			y.errorf(item, "srv needs target and port")
			return
		}
		e.records = append(e.records, srv)
	})
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
