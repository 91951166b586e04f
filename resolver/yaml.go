// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
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
