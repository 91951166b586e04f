// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"log/slog"
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
