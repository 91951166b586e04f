// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"sync"
	"time"

	"github.com/dnsteer/dnsteer/resolver"
)

// expiryInterval is how exactly MaxAge is kept.
const expiryInterval = time.Second

// Source keeps the names of a mesh in a layer.
type Source struct {
	Config
	layer  *resolver.Layer
	origin *resolver.Origin
	served chan struct{} // closed when a table is in the layer for the first time
	health
	timing

	mu    sync.Mutex        // guards what follows, and orders changes of the layer
	names map[string]record // those in the layer
}

// NewSource makes a source that fills a layer. Call Run.
func NewSource(layer *resolver.Layer, c Config) *Source {
	c.setDefaults()
	c.Logger = c.Logger.With("istiod", c.Address)
	s := &Source{Config: c, layer: layer, served: make(chan struct{}), timing: usual}
	s.origin = layer.Origin(func() string { return "istio " + s.Address + s.age() })
	return s
}

// Served is closed when a table is in the layer for the first time.
func (s *Source) Served() <-chan struct{} { return s.served }

// isUp reports whether a table has ever been served.
func (s *Source) isUp() bool {
	select {
	case <-s.served:
		return true
	default:
		return false
	}
}

// Run keeps the layer up until ctx ends; then it stays as it is.
func (s *Source) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	if s.MaxAge > 0 {
		running.Go(func() { s.expire(ctx) })
	}
	s.follow(ctx, s.stream)
}

// take serves the hosts of a table, all at once.
func (s *Source) take(hosts []host) {
	names := records(hosts, s.Domain, s.ShortNames)
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind, lasted := s.heard(); kind != "" {
		s.Logger.Info("names are kept up again", "was", kind, "for", lasted.Round(time.Millisecond))
	}
	s.change(names)
	if !s.isUp() {
		close(s.served)
		s.Logger.Info("the mesh is served", "hosts", len(hosts), "names", len(names))
	}
}

// change tells the layer what is new and what is gone. Callers hold mu.
func (s *Source) change(names map[string]record) {
	err := s.layer.Apply(func(yield func(resolver.Name) bool) {
		for name, r := range names {
			if !r.isSame(s.names[name]) && !yield(s.name(name, r)) {
				return
			}
		}
		for name := range s.names {
			if _, ok := names[name]; !ok && !yield(resolver.Name{Name: name}) {
				return
			}
		}
	})
	s.names = names
	if err != nil {
		s.Logger.Warn("leave records out", "err", err)
	}
}

func (s *Source) name(name string, r record) resolver.Name {
	n := resolver.Name{Name: name, TTL: s.TTL, From: s.origin, Addrs: r.addrs, Shared: r.shared}
	if s.Reverse {
		n.Pointers = r.addrs
	}
	return n
}

// expire lets the names go that have not been kept up for too long, until ctx ends.
func (s *Source) expire(ctx context.Context) {
	tick := time.NewTicker(expiryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		if len(s.names) > 0 && s.lasted() >= s.MaxAge {
			s.Logger.Warn("names have not been kept up for too long; they are let go", "bound", s.MaxAge)
			s.change(nil)
		}
		s.mu.Unlock()
	}
}
