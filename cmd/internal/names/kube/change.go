// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/dnsteer/dnsteer/resolver"
)

// mark notes, before a Service changes, under which names it is served. Callers hold mu.
func (s *Source) mark(k key) {
	if _, ok := s.dirty[k]; ok {
		return
	}
	var old []string
	for n := range s.names(k) {
		old = append(old, n.Name)
	}
	s.dirty[k] = old
	s.rouse()
}

// rouse lets Run give the layer what changed.
func (s *Source) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Source) markAll(c *cluster) {
	for k := range c.services {
		s.mark(k)
	}
	s.mark(key{}) // the zones, see names
}

// flush gives the layer the names of what has changed, and what it is the authority of.
func (s *Source) flush() {
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = make(map[key][]string)
	err := errors.Join(s.giveUpAuthorities(), s.apply(dirty), s.setAuthorities(s.authorities()))
	for _, at := range s.slots {
		if at.current != nil && !at.isServed {
			at.isServed = true
			close(at.served)
		}
	}
	s.mu.Unlock()
	if err != nil {
		s.Logger.Warn("leave records out", "err", err)
	}
}

// apply gives the layer the names of Services, beside the names that they had. Callers
// hold mu.
func (s *Source) apply(dirty map[key][]string) error {
	if len(dirty) == 0 {
		return nil
	}
	return s.layer.Apply(func(yield func(resolver.Name) bool) {
		for k, old := range dirty {
			fresh := make(map[string]bool)
			for n := range s.names(k) {
				fresh[n.Name] = true
				if !yield(n) {
					return
				}
			}
			for _, name := range old {
				if !fresh[name] && !yield(resolver.Name{Name: name}) {
					return
				}
			}
		}
	})
}

// names are all names of a Service as they are to be served now. The Service without a
// name stands for the zones themselves. Callers hold mu.
func (s *Source) names(k key) iter.Seq[resolver.Name] {
	return func(yield func(resolver.Name) bool) {
		for _, zone := range s.zones() {
			chosen := s.chosen(zone, k)
			if k == (key{}) {
				if s.Imports != "" {
					return // a clusterset's zone tells no version
				}
				if !yield(resolver.Name{Name: "dns-version." + zone, TXT: []string{specVersion}, TTL: s.TTL, From: s.origin(chosen)}) {
					return
				}
				continue
			}
			views := make([]view, 0, len(chosen))
			for _, said := range chosen {
				views = append(views, said.view)
			}
			for _, n := range names(zone, k, views) {
				n.TTL, n.From = s.TTL, s.origin(chosen)
				if !yield(n) {
					return
				}
			}
		}
	}
}

// zones are those of all clusters that are served.
func (s *Source) zones() []string {
	var zones []string
	for _, at := range s.slots {
		if !at.isUp() {
			continue
		}
		for _, zone := range at.current.Zones {
			if !slices.Contains(zones, zone) {
				zones = append(zones, zone)
			}
		}
	}
	return zones
}

// chosen are the clusters whose records of a Service count in a zone.
func (s *Source) chosen(zone string, k key) []said {
	var all []said
	for _, at := range s.slots {
		c := at.current
		if !at.isUp() || !slices.Contains(c.Zones, zone) {
			continue
		}
		if k == (key{}) {
			all = append(all, said{cluster: c})
			continue
		}
		if v, ok := c.view(k); ok {
			v.reverse = c.Reverse
			all = append(all, said{v, c})
		}
	}
	if k == (key{}) {
		return all
	}
	return s.Merge.choose(all)
}

// origin is that of records that some clusters gave together.
func (s *Source) origin(from []said) *resolver.Origin {
	clusters := make([]*cluster, 0, len(from))
	var id strings.Builder
	for _, f := range from {
		clusters = append(clusters, f.cluster)
		id.WriteString(f.cluster.Name + "\x00")
	}
	o, ok := s.origins[id.String()]
	if !ok {
		kind := "kubernetes"
		if s.Imports != "" {
			kind = "mcs"
		}
		// Answers are made with it: it waits for nothing but for a few words.
		o = s.layer.Origin(func() string {
			words := make([]string, 0, len(clusters))
			for _, c := range clusters {
				words = append(words, c.words())
			}
			return kind + " " + strings.Join(words, " and ")
		})
		s.origins[id.String()] = o
	}
	return o
}
