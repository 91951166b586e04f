// SPDX-License-Identifier: Apache-2.0

package resolver

import "github.com/miekg/dns"

// purge forgets what the cache holds at and below the names in which two tables
// differ, under the client's search suffixes too: neither a negative answer may hide
// what comes back with a name, nor an old one stay when the name has gone.
func (s *Server) purge(before, after *Table) {
	if s.cache == nil || before == nil || before == after {
		return
	}
	search := s.suffixes()
	s.cache.purge(func(k key) bool {
		if differ(before, after, k.name) {
			return true
		}
		for end := k.name.parent(); end != ""; end = end.parent() {
			if !search[end] {
				continue
			}
			if short, ok := k.name.without(end); ok && differ(before, after, short) {
				return true
			}
		}
		return false
	})
}

// suffixes are those of all scopes.
func (s *Server) suffixes() map[wireName]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[wireName]bool)
	add := func(sc *Scope) {
		for _, suffix := range sc.settings.Load().search {
			all[suffix] = true
		}
	}
	add(s.own)
	for sc := range s.scopes {
		add(sc)
	}
	return all
}

// differ reports whether two tables say different things of a name, of a name above
// it, or of their wildcards. The cost is that of the name, not of the tables.
func differ(a, b *Table, name wireName) bool {
	for ; name != ""; name = name.parent() {
		if !a.entries[name].says(b.entries[name]) || !a.entries[wildLabel+name].says(b.entries[wildLabel+name]) {
			return true
		}
	}
	return false
}

// says reports whether two entries have the same records.
func (e *entry) says(other *entry) bool {
	if e == other {
		return true
	}
	if e == nil || other == nil || len(e.records) != len(other.records) {
		return false
	}
	for i, rr := range e.records {
		if !dns.IsDuplicate(rr, other.records[i]) || rr.Header().Ttl != other.records[i].Header().Ttl {
			return false
		}
	}
	return true
}
