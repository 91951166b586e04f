// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dnsteer/dnsteer/resolver"
)

const (
	// DefaultTTL is what CoreDNS gives: Services move within seconds.
	DefaultTTL = 5
	// pace is how often the table changes at most. Changes in between go together: a
	// rollout tells of each of its pods.
	pace = 20 * time.Millisecond
	// expiryInterval is how exactly MaxAge is kept.
	expiryInterval = time.Second
)

// Config is how a Source makes names. The zero value works.
type Config struct {
	Merge Merge  // LocalFirst if empty
	TTL   uint32 // seconds; DefaultTTL if zero
	// Imports is the version of the Multi-Cluster Services API whose ServiceImports are
	// watched, such as ImportVersion, instead of Services; empty for none.
	Imports string
	// MaxAge is for how long the names of a cluster that is away are kept; zero is for
	// ever.
	MaxAge time.Duration
	Logger *slog.Logger
}

// Source keeps the names of clusters in a layer.
type Source struct {
	Config
	layer *resolver.Layer
	wake  chan struct{} // holds one word when something is dirty

	mu      sync.Mutex // guards what follows, and the state of every cluster
	slots   []*slot
	dirty   map[key][]string // the names that were served of Services that changed
	origins map[string]*resolver.Origin
	// authority are the zones of which the layer is the authority.
	authority []string
	ended     bool
}

// slot is the place of one cluster in the order of all. While a cluster is reached in
// another way than before, the next one takes over when all of it is listed.
type slot struct {
	name          string
	current, next *cluster
	served        chan struct{} // closed when current's names are in the layer at first
	isServed      bool
}

// NewSource makes a source that fills a layer. Call Run.
func NewSource(layer *resolver.Layer, c Config) *Source {
	if c.Merge == "" {
		c.Merge = LocalFirst
	}
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Source{Config: c, layer: layer, wake: make(chan struct{}, 1),
		dirty: make(map[key][]string), origins: make(map[string]*resolver.Origin)}
}

// Run gives the layer what changes until ctx ends; then no cluster is watched any more,
// and the layer stays as it is.
func (s *Source) Run(ctx context.Context) {
	defer s.end()
	expiry := time.NewTicker(expiryInterval)
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-expiry.C:
			s.expire()
			continue
		case <-s.wake:
		}
		s.flush()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pace):
		}
	}
}

func (s *Source) end() {
	s.mu.Lock()
	s.ended = true
	slots := s.slots
	s.slots = nil
	s.mu.Unlock()
	for _, at := range slots {
		at.current.stop()
		at.next.stop()
	}
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
		if c := at.current; c != nil && !c.expired {
			for _, zone := range c.Zones {
				if !slices.Contains(zones, zone) {
					zones = append(zones, zone)
				}
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
		if c == nil || c.expired || !slices.Contains(c.Zones, zone) {
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

// Status is how a cluster is, for people to read.
type Status struct {
	Name     string
	Services int
	Synced   bool          // all of it was listed once
	Away     time.Duration // 0 while it is heard
	Error    string        // why it is away
}

// Status tells of every cluster.
func (s *Source) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Status
	for _, at := range s.slots {
		st := Status{Name: at.name}
		for _, c := range []*cluster{at.next, at.current} {
			if c == nil {
				continue
			}
			st.Services, st.Synced, st.Away = len(c.services), c == at.current, c.away()
			st.Error = c.why()
		}
		all = append(all, st)
	}
	return all
}

// newCluster makes a cluster that is not watched yet.
func (s *Source) newCluster(c Cluster) *cluster {
	return &cluster{Cluster: c, source: s, log: s.Logger.With("cluster", c.Name), state: newState(), health: health{failing: make(map[string]error)}}
}

// start watches until stop.
func (c *cluster) start(ctx context.Context) {
	ctx, c.cancel = context.WithCancel(ctx)
	kinds := c.kinds()
	c.unsynced = len(kinds)
	for _, w := range kinds {
		c.done.Go(func() {
			if err := w.run(ctx, c.Rest, c); err != nil {
				c.failed(w.kind, fmt.Errorf("watch %s: %w", w.kind, err))
			}
		})
	}
}

// stop ends the watches. Nil has none.
func (c *cluster) stop() {
	if c == nil || c.cancel == nil {
		return
	}
	c.cancel()
	c.done.Wait()
}
