// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"slices"
)

// state is what is known of one cluster. Its Source guards it.
type state struct {
	services map[key]*service
	slices   map[key]*slice            // by their own name
	of       map[key]map[string]*slice // by the Service, and their own name
}

func newState() state {
	return state{services: make(map[key]*service), slices: make(map[key]*slice), of: make(map[key]map[string]*slice)}
}

// setService replaces a Service, nil where it is gone. Before is called with what is
// about to change.
func (st *state) setService(k key, s *service, before func(key)) {
	old := st.services[k]
	if s == nil && old == nil || s != nil && old != nil && isSame(s, old) {
		return
	}
	before(k)
	if s == nil {
		delete(st.services, k)
	} else {
		st.services[k] = s
	}
}

// setSlice replaces an EndpointSlice, nil where it is gone.
func (st *state) setSlice(k key, s *slice, before func(key)) {
	old := st.slices[k]
	if s == nil && old == nil || s != nil && old != nil && isSame(s, old) {
		return
	}
	if old != nil {
		before(old.service)
		delete(st.slices, k)
		delete(st.of[old.service], k.name)
		if len(st.of[old.service]) == 0 {
			delete(st.of, old.service)
		}
	}
	if s == nil {
		return
	}
	before(s.service)
	st.slices[k] = s
	if st.of[s.service] == nil {
		st.of[s.service] = make(map[string]*slice)
	}
	st.of[s.service][k.name] = s
}

// view is what the cluster has for a Service, its slices in the order of their names.
func (st *state) view(k key) (view, bool) {
	s, ok := st.services[k]
	if !ok {
		return view{}, false
	}
	v := view{service: s}
	if s.headless {
		of := st.of[k]
		for _, name := range slices.Sorted(maps.Keys(of)) {
			v.slices = append(v.slices, of[name])
		}
	}
	return v, true
}
