// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
)

// Authority is a suffix of names of which a table knows all that there are: what it lacks
// at and below it does not exist, and nobody else is asked.
type Authority struct {
	Suffix string
	// TTL bounds how long clients may believe that a name does not exist; seconds.
	TTL  uint32
	From *Origin
}

// apex is an Authority of a table. It never changes.
type apex struct {
	name wireName
	ttl  uint32
	from *Origin
	line uint32 // of the file, from 1
}

// place says where it comes from.
func (x *apex) place() string { return placeOf(x.from, x.line) + " (authority)" }

// says reports whether two tables say the same of who is the authority.
func (x *apex) says(other *apex) bool {
	return x == other || x != nil && other != nil && x.name == other.name && x.ttl == other.ttl
}

// apexes are those of a table, or of a layer, by name. They never change.
type apexes map[wireName]*apex

// find returns the closest one at or above a name, nil if there is none. It allocates
// nothing.
func (a apexes) find(name []byte) *apex {
	if len(a) == 0 {
		return nil
	}
	for ; name[0] > 0; name = name[1+int(name[0]):] {
		if x := a[wireName(name)]; x != nil {
			return x
		}
	}
	return nil
}

// add adds one, unless there is one of that name.
func (a *apexes) add(x *apex) {
	if *a == nil {
		*a = make(apexes)
	}
	if (*a)[x.name] == nil {
		(*a)[x.name] = x
	}
}

// SetAuthority changes all that the layer says of which names the table knows all. A
// source that knows names later than their authority would deny them meanwhile: it gives
// the names first, and takes the authority back first. What cannot be a name is left out,
// and the error says which.
func (l *Layer) SetAuthority(all ...Authority) error {
	var made apexes
	var errs []error
	for _, a := range all {
		name, err := parseName(a.Suffix)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: authority: %w", l.name, err))
			continue
		}
		made.add(&apex{name: name, ttl: min(a.TTL, maxTTL), from: a.From})
	}
	l.names.change(func(d *draft) { l.setApexes(d, made) })
	return errors.Join(errs...)
}

// setApexes changes those of a layer. Of a suffix that several layers have, the first
// one's counts.
func (l *Layer) setApexes(d *draft, made apexes) {
	l.apexes = made
	var all apexes
	for _, layer := range l.names.layers {
		for _, x := range layer.apexes {
			all.add(x)
		}
	}
	d.setApexes(all)
}

// setApexes changes those of the table. To tell a name that does not exist from one that
// has only others below it, the latter have to be there (RFC 4592 section 2.2.2).
func (d *draft) setApexes(all apexes) {
	before := d.apexes
	d.apexes = all
	for name := range all {
		if before[name] == nil {
			d.countSplit(name, 1)
		}
	}
	for name := range before {
		if all[name] == nil {
			d.countSplit(name, -1)
		}
	}
	d.changed.addApexes(before, all)
}

// isDenied reports whether what was found says that nobody is to be asked for a name.
// A route below an authority is a delegation: it leads to who knows.
func (st *settings) isDenied(at hit, name []byte) bool {
	return !at.ok() && at.apex != nil && !st.routes.lead(name, at.apex.name)
}

// lead reports whether there is a route for a name below an apex.
func (r *routes) lead(name []byte, apex wireName) bool {
	if len(r.suffixes) == 0 {
		return false
	}
	for ; len(name) > len(apex); name = name[1+int(name[0]):] {
		if r.suffixes[wireName(name)] != nil {
			return true
		}
	}
	return false
}
