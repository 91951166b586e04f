// SPDX-License-Identifier: Apache-2.0

package resolver

// maxChanges bounds the changes that are looked up by name. Beyond, two tables are
// compared for every name in the cache.
const maxChanges = 4096

// SetTable replaces the name table at once; queries under way finish with the one
// they began with. The cache forgets what it holds at and below names that are not
// the same in both. Nil is the empty table.
func (s *Server) SetTable(t *Table) { s.replace(t, nil) }

// replace is SetTable where changed are the names in which the tables differ, if
// that is known.
func (s *Server) replace(t *Table, changed changes) {
	if t == nil {
		t = &Table{}
	}
	before := s.table.Swap(t)
	s.purge(before, t, changed)
}

// purge forgets what the cache holds at and below the names in which two tables
// differ, under the client's search suffixes too: neither a negative answer may hide
// what comes back with a name, nor an old one stay when the name has gone.
func (s *Server) purge(before, after *Table, changed changes) {
	if s.cache == nil || before == nil || before == after {
		return
	}
	differs := changed.touch
	if changed == nil {
		differs = func(name wireName) bool { return differ(before, after, name) }
	}
	search := s.suffixes()
	s.cache.purge(func(e *cached) bool {
		if differs(e.key.name) {
			return true
		}
		for end := e.key.name.parent(); end != ""; end = end.parent() {
			if !search[end] {
				continue
			}
			if short, ok := e.key.name.without(end); ok && differs(short) {
				return true
			}
		}
		return false
	}, changed != nil) // two whole tables are not to be held for it
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
		if !a.apexes[name].says(b.apexes[name]) {
			return true
		}
		if !a.lookup(name).says(b.lookup(name)) || !a.lookup(wildLabel+name).says(b.lookup(wildLabel+name)) {
			return true
		}
		if !sayTheSame(a.reverse([]byte(name)), b.reverse([]byte(name))) {
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
	if !e.isGiven() || !other.isGiven() {
		return e.isGiven() == other.isGiven()
	}
	// Records may be packed relative to their owner.
	return e.name == other.name && e.records == other.records && e.ttl == other.ttl && e.shared == other.shared
}

// sayTheSame reports whether two addresses give the same back.
func sayTheSame(a, b reverse) bool {
	if a == nil || b == nil || a.count() != b.count() {
		return a == b
	}
	for i := range a.count() {
		if a, b := a.pointer(i), b.pointer(i); a.name != b.name || a.ttl != b.ttl {
			return false
		}
	}
	return true
}
