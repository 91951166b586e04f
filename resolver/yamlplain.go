// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"slices"
	"strconv"
)

// plainFile is a YAML file in the plain form, which programs write that list very many
// names:
//
//	ttl: 30
//	authority: [example.org]
//	names:
//	  # a comment has a line of its own
//	  web.example.org: [192.0.2.10, "2001:db8::10"]
//
// The YAML package needs fifty times as long for it.
type plainFile struct {
	from    *Origin
	ttl     uint32
	hasTTL  bool
	inNames bool
	indent  int // of names, 0 before the first
	entries []*entry
	apexes  []*apex

	slab slab[entry]
	text arena

	name, packed []byte // of the entry at hand: its name, and its records
}

// readPlain reads a file of the plain form. It is false for every other file, and for one
// with a mistake, of which the YAML package says more. What it takes means the same to
// both.
func readPlain(from *Origin, data []byte) (p *plainFile, ok bool) {
	p = &plainFile{from: from, ttl: defaultTTL}
	line := uint32(0)
	for text := range bytes.Lines(data) {
		line++
		if !p.line(line, bytes.TrimSuffix(text, []byte("\n"))) {
			return nil, false
		}
	}
	for _, x := range p.apexes {
		x.ttl = p.ttl
	}
	return p, len(p.entries) > 0
}

func (p *plainFile) line(line uint32, text []byte) bool {
	for _, c := range text {
		if c < ' ' || c > '~' {
			return false
		}
	}
	body := bytes.TrimLeft(text, " ")
	indent := len(text) - len(body)
	switch {
	case len(body) == 0 || body[0] == '#':
		return true
	case p.inNames:
		if p.indent == 0 {
			p.indent = indent
		}
		return indent > 0 && indent == p.indent && p.entry(line, body)
	case indent > 0:
		return false
	case string(body) == "names:":
		p.inNames = true
		return true
	case bytes.HasPrefix(body, []byte("authority: [")):
		return p.authority(line, body)
	}
	return p.setTTL(body)
}

func (p *plainFile) authority(line uint32, body []byte) bool {
	list, ok := bytes.CutSuffix(bytes.TrimPrefix(body, []byte("authority: [")), []byte("]"))
	if !ok || len(p.apexes) > 0 {
		return false
	}
	for word := range bytes.SplitSeq(list, []byte(",")) {
		word = bytes.Trim(word, " ")
		wire, ok := appendPlain(nil, word)
		name := wireName(wire)
		// Without a dot it may be one of YAML's words for nothing.
		if !ok || name.isWild() || !bytes.ContainsRune(word, '.') || slices.ContainsFunc(p.apexes, func(x *apex) bool { return x.name == name }) {
			return false
		}
		p.apexes = append(p.apexes, &apex{name: name, from: p.from, line: line})
	}
	return true
}

func (p *plainFile) setTTL(body []byte) bool {
	digits, ok := bytes.CutPrefix(body, []byte("ttl: "))
	if !ok || p.hasTTL || !isNumber(digits) {
		return false
	}
	ttl, err := strconv.ParseUint(string(digits), 10, 31)
	p.ttl, p.hasTTL = uint32(ttl), true
	return err == nil
}

// entry reads a name and its addresses.
func (p *plainFile) entry(line uint32, body []byte) bool {
	key, list, ok := bytes.Cut(body, []byte(": ["))
	if !ok {
		return false
	}
	list, ok = bytes.CutSuffix(list, []byte("]"))
	if !ok {
		return false
	}
	if p.name, ok = appendPlain(p.name[:0], key); !ok {
		return false
	}
	isWild := bytes.HasPrefix(p.name, []byte(wildLabel))
	p.packed = p.packed[:0]
	for word := range bytes.SplitSeq(list, []byte(",")) {
		if !p.address(bytes.Trim(word, " "), !isWild) {
			return false
		}
	}
	e := p.slab.next()
	*e = entry{name: wireName(p.text.keep(p.name)), from: p.from, line: line, ttl: p.ttl}
	e.records = records(p.text.keep(p.packed))
	p.entries = append(p.entries, e)
	return true
}

// appendPlain appends a name to an empty buffer. One that is not in quotes must not begin
// with what means something in YAML.
func appendPlain(wire, word []byte) (_ []byte, ok bool) {
	word, quoted := unquoted(word)
	if !quoted && (len(word) == 0 || !isNameByte(word[0]) || word[0] == '-') {
		return wire, false
	}
	var err error
	if bytes.HasPrefix(word, []byte("*")) {
		var name wireName
		name, err = parseWild(string(word))
		return append(wire, name...), err == nil
	}
	wire, err = appendName(wire, word)
	return wire, err == nil
}

// address reads an address. Without quotes a colon may mean something in YAML.
func (p *plainFile) address(word []byte, pointer bool) bool {
	word, quoted := unquoted(word)
	if !quoted && bytes.IndexByte(word, ':') >= 0 {
		return false
	}
	addr, err := parseAddr(string(word))
	if err != nil || records(p.packed).hasAddress(addr) {
		return false
	}
	p.packed = appendAddress(p.packed, addr, pointer)
	return true
}

// unquoted takes double quotes off. What has an escape inside is neither a name nor an
// address.
func unquoted(word []byte) ([]byte, bool) {
	if len(word) < 2 || word[0] != '"' || word[len(word)-1] != '"' {
		return word, false
	}
	return word[1 : len(word)-1], true
}

// isNumber reports whether a word consists of digits.
func isNumber(word []byte) bool {
	for _, c := range word {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// offerPlain adds what a plain file has. It is false if a name stands twice, and then the
// draft is of no use any more.
func (d *draft) offerPlain(p *plainFile) bool {
	lost := make(map[wireName]bool) // those that an earlier file has
	for _, e := range p.entries {
		at := d.gathered.slot([]byte(e.name))
		isGiven := (*at).isGiven()
		if isGiven && (*at).from == e.from || lost[e.name] {
			return false
		}
		if isGiven {
			lost[e.name] = true
		}
		d.offer(at, e)
	}
	for _, x := range p.apexes {
		d.declared.add(x)
	}
	return true
}
