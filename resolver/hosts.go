// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
)

// readHosts reads hosts(5): an address, its name, aliases, comments from "#". A name
// may stand on several lines and has all their addresses. The first name of a line is
// the one that the address gives back.
func (d *draft) readHosts(path string, data []byte) error {
	h := &hosts{draft: d, path: path, from: &Origin{path: path}}
	line := 0
	for text := range bytes.Lines(data) {
		line++
		text, _, _ = bytes.Cut(text, []byte("#"))
		h.line(place{path, line}, text)
	}
	return errors.Join(h.errs...)
}

type hosts struct {
	*draft
	path string
	from *Origin
	errs []error
	// lost are names that an earlier file has.
	lost map[wireName]bool

	wire []byte // of the name at hand
	slab slab[entry]
	text arena
}

func (h *hosts) line(at place, text []byte) {
	var addr netip.Addr
	var err error
	words := 0
	for word := range bytes.FieldsSeq(text) {
		words++
		if words == 1 {
			if addr, err = parseAddr(string(word)); err != nil {
				h.errs = append(h.errs, at.errorf("%w", err))
			}
			continue
		}
		// hosts(5) knows no wildcards.
		wire, nameErr := appendName(h.wire[:0], word)
		h.wire = wire
		if nameErr != nil {
			h.errs = append(h.errs, at.errorf("%w", nameErr))
			continue
		}
		if err == nil {
			h.give(at, addr, words == 2)
		}
	}
	if words == 1 {
		word := bytes.TrimSpace(text)
		h.errs = append(h.errs, at.errorf("address %q has no name", word))
	}
}

// give gives the name at hand an address.
func (h *hosts) give(at place, addr netip.Addr, canonical bool) {
	slot := h.gathered.slot(h.wire)
	e := *slot
	if !e.isGiven() || e.from != h.from {
		h.first(slot, at, addr, canonical)
		return
	}
	if e.hasAddress(addr) {
		if canonical {
			e.records = e.withPointer(addr)
		}
		return
	}
	if len(e.records) <= maxEntry { // beyond, checkSize complains as it is
		e.records = records(appendAddress([]byte(e.records), addr, canonical))
	}
}

// first gives the name at hand its first address in this file.
func (h *hosts) first(slot **entry, at place, addr netip.Addr, canonical bool) {
	if h.lost[wireName(h.wire)] {
		return
	}
	e := h.slab.next()
	*e = entry{name: wireName(h.text.keep(h.wire)), from: h.from, line: uint32(at.line), ttl: defaultTTL}
	var buf [1 + 16]byte
	e.records = records(h.text.keep(appendAddress(buf[:0], addr, canonical)))
	if (*slot).isGiven() {
		if h.lost == nil {
			h.lost = make(map[wireName]bool)
		}
		h.lost[e.name] = true
	}
	h.offer(slot, e)
}

// withPointer marks an address among the records as one that gives its name back.
func (r records) withPointer(addr netip.Addr) records {
	var marked []byte
	for kind, rdata := range r.each {
		if a, ok := addressOf(kind, rdata); ok && a == addr {
			kind |= kindPointer
		}
		marked = append(append(marked, kind), rdata...)
	}
	return records(marked)
}

// slab allocates many small things in one piece.
type slab[T any] struct{ free []T }

const slabSize = 256

func (s *slab[T]) next() *T {
	if len(s.free) == 0 {
		s.free = make([]T, slabSize)
	}
	t := &s.free[0]
	s.free = s.free[1:]
	return t
}

// arena keeps many short texts in a few long ones.
type arena struct{ b strings.Builder }

const arenaSize = 16 << 10

func (a *arena) keep(text []byte) string {
	if a.b.Cap()-a.b.Len() < len(text) {
		a.b = strings.Builder{}
		a.b.Grow(max(arenaSize, len(text)))
	}
	at := a.b.Len()
	a.b.Write(text)
	return a.b.String()[at:]
}
