// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"slices"
)

// slot is the place of one cluster in the order of all. While a cluster is reached in
// another way than before, the next one takes over when all of it is listed.
type slot struct {
	name          string
	current, next *cluster
	served        chan struct{} // closed when current's names are in the layer at first
	isServed      bool
}

// Set adds a cluster, watched until ctx or Run ends, or changes how one of that name is
// reached: its names stay until all of it is listed in the new way.
func (s *Source) Set(ctx context.Context, c Cluster) error {
	if err := c.check(); err != nil {
		return err
	}
	next := s.newCluster(c)
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil
	}
	at := s.slot(c.Name)
	if at == nil {
		at = &slot{name: c.Name, served: make(chan struct{})}
		s.slots = append(s.slots, at)
		// Local ones come first: their names are first in every union.
		slices.SortStableFunc(s.slots, func(a, b *slot) int { return a.rank(next) - b.rank(next) })
	}
	replaced := at.next
	at.next = next
	s.rouse() // it may have a zone of which the others do not know all then
	next.start(ctx)
	s.mu.Unlock()
	replaced.stop()
	return nil
}

// rank is 0 for a local cluster; a new slot is not filled yet.
func (at *slot) rank(next *cluster) int {
	for _, c := range []*cluster{at.current, at.next} {
		if c != nil && c.Local {
			return 0
		}
	}
	if at.name == next.Name && next.Local {
		return 0
	}
	return 1
}

// Remove forgets a cluster and its names.
func (s *Source) Remove(name string) {
	s.mu.Lock()
	at := s.slot(name)
	if at == nil {
		s.mu.Unlock()
		return
	}
	if at.current != nil {
		s.markAll(at.current)
	}
	s.slots = slices.DeleteFunc(s.slots, func(other *slot) bool { return other == at })
	clear(s.origins)
	s.rouse()
	s.mu.Unlock()
	at.current.stop()
	at.next.stop()
}

func (s *Source) slot(name string) *slot {
	i := slices.IndexFunc(s.slots, func(at *slot) bool { return at.name == name })
	if i < 0 {
		return nil
	}
	return s.slots[i]
}

// Served is closed when the names of a cluster are in the layer for the first time; nil
// for one that nobody has set.
func (s *Source) Served(name string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.slot(name)
	if at == nil {
		return nil
	}
	return at.served
}

// promote lets a cluster take over that is listed.
func (s *Source) promote(c *cluster) {
	s.mu.Lock()
	at := s.slot(c.Name)
	if at == nil || at.next != c {
		s.mu.Unlock()
		return
	}
	before := at.current
	if before != nil {
		s.markAll(before)
	}
	s.markAll(c)
	at.current, at.next = c, nil
	clear(s.origins) // they speak of the cluster before
	services := len(c.services)
	s.mu.Unlock()
	c.log.Info("the cluster is served", "services", services)
	before.stop()
}

// revive serves a cluster again whose names were let go.
func (s *Source) revive(c *cluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.expired {
		s.markAll(c)
		c.expired = false
	}
}

// expire lets go of the names of clusters that are away for too long.
func (s *Source) expire() {
	if s.MaxAge == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.slots {
		c := at.current
		if c == nil || c.expired || c.away() < s.MaxAge {
			continue
		}
		s.markAll(c)
		c.expired = true
		c.log.Warn("the cluster is away for too long; its names are let go", "bound", s.MaxAge)
	}
}
