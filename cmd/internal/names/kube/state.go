// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// state is what is known of one cluster. Its Source guards it.
type state struct {
	services map[key]packed
	slices   map[key]owner  // by their own name
	of       map[key][]part // by the Service, in the order of their own names
}

// owner is whose a slice is: a Service of its own namespace.
type owner struct {
	service string
	kind    int // the watch that told of it
}

func (o owner) key(of key) key { return key{of.namespace, o.service} }

// part is one slice of a Service.
type part struct {
	name string
	packed
}

func newState() state {
	return state{services: make(map[key]packed), slices: make(map[key]owner), of: make(map[key][]part)}
}

// setService replaces a Service, nil where it is gone. Before is called with what is
// about to change.
func (st *state) setService(k key, s *service, before func(key)) {
	var now packed
	if s != nil {
		now = s.pack()
	}
	if st.services[k] == now {
		return
	}
	before(k)
	if s == nil {
		delete(st.services, k)
	} else {
		st.services[k] = now
	}
}

// setSlice replaces an EndpointSlice, nil where it is gone from a watch: another one of
// the same cluster may have told of it since.
func (st *state) setSlice(kind int, k key, s *slice, before func(key)) {
	old, isKnown := st.slices[k]
	if s == nil {
		if isKnown && old.kind == kind {
			before(old.key(k))
			st.dropPart(k, old)
		}
		return
	}
	now := owner{s.service.name, kind}
	if strings.HasPrefix(k.name, now.service) {
		now.service = k.name[:len(now.service)] // as most are called: keep the text once
	}
	of, fresh := now.key(k), part{k.name, s.pack()}
	i, ok := find(st.of[of], k.name)
	if ok && st.of[of][i] == fresh {
		st.slices[k] = now
		return
	}
	if isKnown {
		before(old.key(k))
		st.dropPart(k, old)
	}
	before(of)
	st.slices[k] = now
	i, _ = find(st.of[of], k.name)
	st.of[of] = slices.Insert(st.of[of], i, fresh)
}

func (st *state) dropPart(k key, of owner) {
	delete(st.slices, k)
	parts := st.of[of.key(k)]
	if i, ok := find(parts, k.name); ok {
		parts = slices.Delete(parts, i, i+1)
	}
	if len(parts) == 0 {
		delete(st.of, of.key(k))
	} else {
		st.of[of.key(k)] = parts
	}
}

func find(parts []part, name string) (int, bool) {
	return slices.BinarySearchFunc(parts, name, func(p part, name string) int { return cmp.Compare(p.name, name) })
}

// slicesOf are those that one watch told of.
func (st *state) slicesOf(kind int) iter.Seq[key] {
	return func(yield func(key) bool) {
		for k, o := range st.slices {
			if o.kind == kind && !yield(k) {
				return
			}
		}
	}
}

// view is what the cluster has for a Service, its slices in the order of their names.
func (st *state) view(k key) (view, bool) {
	p, ok := st.services[k]
	if !ok {
		return view{}, false
	}
	v := view{service: p.service()}
	if v.headless {
		for _, part := range st.of[k] {
			v.slices = append(v.slices, part.slice(k))
		}
	}
	return v, true
}
