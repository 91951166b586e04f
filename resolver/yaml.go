// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxTTL is the largest TTL there is (RFC 2181 section 8).
const maxTTL = 1<<31 - 1

// readYAML reads the strict YAML form of resolver/README.md.
func (d *draft) readYAML(path string, data []byte) error {
	if p, ok := readPlain(&Origin{path: path}, data); ok {
		if d.offerPlain(p) {
			return nil
		}
		d = new(Table).draft() // for the mistakes alone
	}
	return d.readNodes(path, data)
}

// readNodes reads any YAML. It walks nodes, not structs, so that every message has the
// line of what it is about.
func (d *draft) readNodes(path string, data []byte) error {
	y := &yamlFile{draft: d, path: path, from: &Origin{path: path}, ttl: defaultTTL}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil // an empty file is an empty table
	} else if err != nil {
		return syntaxError(path, err)
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
	return errors.Join(y.errs...)
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
	*draft
	path   string
	from   *Origin
	ttl    uint32
	errs   []error
	text   arena
	packed []byte // the records of the entry at hand
}

func (y *yamlFile) errorf(n *yaml.Node, format string, args ...any) {
	y.errs = append(y.errs, place{y.path, max(n.Line, 1)}.errorf(format, args...))
}

func (y *yamlFile) root(n *yaml.Node) {
	if n.Tag == "!!null" {
		return // comments alone
	}
	y.mapping(n, "the file",
		field{"ttl", func(v *yaml.Node) { y.ttl = y.number(v, "ttl", 0, maxTTL) }},
		field{"authority", y.authority},
		field{"names", y.entries})
}

func (y *yamlFile) authority(n *yaml.Node) {
	first := make(map[wireName]int)
	y.items(n, "authority", func(item *yaml.Node) {
		name, ok := y.host(item, "authority")
		if line, twice := first[name]; ok && twice {
			y.errorf(item, "authority %q is already in line %d", item.Value, line)
		} else if ok {
			first[name] = item.Line
			y.declared.add(&apex{name: name, ttl: y.ttl, from: y.from, line: uint32(item.Line)})
		}
	})
}

func (y *yamlFile) entries(n *yaml.Node) {
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
	e := &entry{name: name, from: y.from, line: uint32(key.Line), ttl: y.ttl}
	before := len(y.errs)
	y.packed = y.packed[:0]
	switch value.Kind {
	case yaml.SequenceNode:
		y.addresses(e, value, "")
	case yaml.MappingNode:
		y.records(e, value)
	default:
		y.errorf(value, "%s is %s, not a list of addresses or a mapping", key.Value, kindOf(value))
	}
	e.records = records(y.text.keep(y.packed))
	if e.records == "" && len(y.errs) == before {
		y.errorf(key, "%s has no records", key.Value)
	}
	y.offer(y.gathered.slot([]byte(name)), e)
}

func (y *yamlFile) records(e *entry, n *yaml.Node) {
	y.mapping(n, e.name.String(),
		field{"ttl", func(v *yaml.Node) { e.ttl = y.number(v, "ttl", 0, maxTTL) }},
		field{"cname", y.cname},
		field{"a", func(v *yaml.Node) { y.addresses(e, v, "a") }},
		field{"aaaa", func(v *yaml.Node) { y.addresses(e, v, "aaaa") }},
		field{"txt", y.texts},
		field{"srv", func(v *yaml.Node) { y.services(e, v) }})
	if target, ok := records(y.packed).alias(); ok && nameLen(string(target)) < len(target) {
		y.errorf(n, "%s has a cname and other records: a cname stands alone", e.name)
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
		case records(y.packed).hasAddress(addr):
			y.errorf(item, "address %s stands twice", addr)
		default:
			y.packed = appendAddress(y.packed, addr, !e.name.isWild())
		}
	})
}

func (y *yamlFile) cname(n *yaml.Node) {
	if target, ok := y.host(n, "cname"); ok {
		y.packed = appendCNAME(y.packed, target)
	}
}

func (y *yamlFile) texts(n *yaml.Node) {
	y.items(n, "txt", func(item *yaml.Node) {
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
			y.errorf(item, "txt is %s, not a text", kindOf(item))
			return
		}
		if len(item.Value) > maxEntry {
			y.errorf(item, "txt has %d octets, more than %d", len(item.Value), maxEntry)
			return
		}
		y.packed = appendTXT(y.packed, item.Value)
	})
}

func (y *yamlFile) services(e *entry, n *yaml.Node) {
	y.items(n, "srv", func(item *yaml.Node) {
		var target wireName
		var port, priority, weight uint16
		before := len(y.errs)
		ok := y.mapping(item, "srv",
			field{"target", func(v *yaml.Node) { target, _ = y.host(v, "target") }},
			field{"port", func(v *yaml.Node) { port = uint16(y.number(v, "port", 1, 65535)) }},
			field{"priority", func(v *yaml.Node) { priority = uint16(y.number(v, "priority", 0, 65535)) }},
			field{"weight", func(v *yaml.Node) { weight = uint16(y.number(v, "weight", 0, 65535)) }})
		if !ok || len(y.errs) > before {
			return
		}
		if target == "" || port == 0 {
			y.errorf(item, "srv needs target and port")
			return
		}
		y.packed = appendSRV(y.packed, e.name, priority, weight, port, target)
	})
}
