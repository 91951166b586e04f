// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
)

// parseHosts reads hosts(5): an address, its name, aliases, comments from "#". A
// name may stand on several lines and has all their addresses. The first name of a
// line is the one that the address gives back.
func parseHosts(path string, data []byte) ([]*entry, error) {
	h := &hosts{path: path, byName: make(map[wireName]*entry)}
	line := 0
	for text := range strings.Lines(string(data)) {
		line++
		text, _, _ = strings.Cut(text, "#")
		if fields := strings.Fields(text); len(fields) > 0 {
			h.line(place{path, line}, fields)
		}
	}
	return h.entries, errors.Join(h.errs...)
}

type hosts struct {
	path    string
	entries []*entry
	byName  map[wireName]*entry
	errs    []error
}

func (h *hosts) line(at place, fields []string) {
	addr, err := parseAddr(fields[0])
	if err != nil {
		h.errs = append(h.errs, at.errorf("%w", err))
	}
	if len(fields) == 1 {
		h.errs = append(h.errs, at.errorf("address %q has no name", fields[0]))
	}
	for i, field := range fields[1:] {
		// hosts(5) knows no wildcards.
		name, nameErr := parseName(field)
		if nameErr != nil {
			h.errs = append(h.errs, at.errorf("%w", nameErr))
			continue
		}
		if err == nil {
			h.add(at, name, addr, i == 0)
		}
	}
}

func (h *hosts) add(at place, name wireName, addr netip.Addr, canonical bool) {
	e, ok := h.byName[name]
	if !ok {
		e = &entry{name: name, place: at, ttl: defaultTTL}
		h.byName[name] = e
		h.entries = append(h.entries, e)
	}
	if !e.hasAddress(addr) {
		e.records = append(e.records, addressRR(name, addr, defaultTTL))
	}
	if canonical && !slices.Contains(e.pointers, addr) {
		e.pointers = append(e.pointers, addr)
	}
}

func (e *entry) hasAddress(addr netip.Addr) bool {
	for _, rr := range e.records {
		if have, ok := addressOf(rr); ok && have == addr {
			return true
		}
	}
	return false
}
