// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/dnsteer/dnsteer/cmd/internal/agentstatus"
	"github.com/dnsteer/dnsteer/cmd/internal/names/istio"
	"github.com/dnsteer/dnsteer/resolver"
)

// Sources are open sources. Their layers fill while Run runs.
type Sources struct {
	log     *slog.Logger
	kinds   []kind
	layers  []*resolver.Layer // of kinds
	started chan struct{}     // closed when every kind has started
}

// kind is one source.
type kind interface {
	// start lets the source fill its layer until ctx ends, in goroutines of running.
	start(ctx context.Context, running *sync.WaitGroup)
	// awaited are the parts of it that are served at some time after start, by name.
	awaited() map[string]<-chan struct{}
	// status tells of its parts, but for what the source is called.
	status() []agentstatus.Source
}

// Open adds a layer to all for each source of a config. It reads kubeconfigs, and asks
// nobody yet.
func Open(c *Config, all *resolver.Names, log *slog.Logger) (*Sources, error) {
	s := &Sources{log: log, started: make(chan struct{})}
	for i, source := range c.Sources {
		layer := func(kind string) *resolver.Layer {
			l := all.AddLayer(fmt.Sprintf("source %d (%s)", i+1, kind))
			s.layers = append(s.layers, l)
			return l
		}
		var k kind
		var err error
		switch {
		case source.Istio != nil:
			k, err = openIstio(source.Istio, layer("istio"), log)
		case source.MCS != nil:
			k, err = openKubernetes(source.MCS.kubernetes(), layer("mcs"), log)
		default:
			k, err = openKubernetes(source.Kubernetes, layer("kubernetes"), log)
		}
		if err != nil {
			return nil, fmt.Errorf("open source %d: %w", i+1, err)
		}
		s.kinds = append(s.kinds, k)
	}
	return s, nil
}

// conflictInterval is how often names that are hidden are looked for.
const conflictInterval = 10 * time.Second

// Await waits until every cluster and mesh of the config is served, or ctx ends: whoever
// takes over from somebody who knew all names wants to know them first. It returns the
// names of those that are not.
func (s *Sources) Await(ctx context.Context) (missing []string) {
	select {
	case <-ctx.Done():
	case <-s.started:
	}
	for _, k := range s.kinds {
		for name, served := range k.awaited() {
			select {
			case <-served:
				continue
			default:
			}
			select {
			case <-ctx.Done():
				missing = append(missing, name)
			case <-served:
			}
		}
	}
	slices.Sort(missing)
	return missing
}

// Run fills the layers until ctx ends.
func (s *Sources) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for _, k := range s.kinds {
		k.start(ctx, &running)
	}
	close(s.started)
	running.Go(func() { s.tellConflicts(ctx) })
}

// tellConflicts logs how many names of a layer an earlier one hides, when that changes.
func (s *Sources) tellConflicts(ctx context.Context) {
	tick := time.NewTicker(conflictInterval)
	defer tick.Stop()
	told := make([]int, len(s.layers))
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i, layer := range s.layers {
			names, hidden := layer.Count()
			if hidden != told[i] {
				s.log.Warn("names are hidden by an earlier source", "layer", layer.Name(), "names", names, "hidden", hidden, "example", layer.Hidden())
				told[i] = hidden
			}
		}
	}
}

// mesh is a source of the kind istio.
type mesh struct{ *istio.Source }

func openIstio(c *Istio, layer *resolver.Layer, log *slog.Logger) (kind, error) {
	age, err := parseAge(c.MaxAge)
	if err != nil {
		return nil, err
	}
	config := c.Config
	config.MaxAge, config.Logger = age, log
	return mesh{istio.NewSource(layer, config)}, nil
}

func (m mesh) start(ctx context.Context, running *sync.WaitGroup) {
	running.Go(func() { m.Run(ctx) })
}

func (m mesh) awaited() map[string]<-chan struct{} {
	return map[string]<-chan struct{}{m.Address: m.Served()}
}
