// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// Cluster is one cluster and how its names are made.
type Cluster struct {
	Name string
	// Local is the cluster that the clients are in.
	Local bool
	// Zones are the domains under which its names stand, such as "cluster.local".
	Zones []string
	// Authority are those of Zones in which there is nothing but Services of this cluster,
	// and of the others that have the zone: what is not among them does not exist.
	Authority []string
	// Reverse lets addresses give names back. Addresses of another cluster may mean
	// something else here.
	Reverse bool
	// Rest says how to reach the API server.
	Rest *rest.Config
}

func (c *Cluster) check() error {
	switch {
	case c.Name == "":
		return errors.New("a cluster has no name")
	case len(c.Zones) == 0:
		return fmt.Errorf("cluster %s has no zones", c.Name)
	case c.Rest == nil:
		return fmt.Errorf("cluster %s has no API server", c.Name)
	}
	return nil
}

// cluster is a Cluster that is watched.
type cluster struct {
	Cluster
	source *Source
	log    *slog.Logger
	state
	unsynced int // kinds that are not listed yet
	// expired is set when it was away for too long and its names are let go.
	expired bool

	cancel context.CancelFunc
	done   sync.WaitGroup

	health
}

// newCluster makes a cluster that is not watched yet.
func (s *Source) newCluster(c Cluster) *cluster {
	return &cluster{Cluster: c, source: s, log: s.Logger.With("cluster", c.Name), state: newState(), health: health{failing: make(map[string]string)}}
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

// What is watched of EndpointSlices. The controller marks those of headless Services.
// What others make is watched whole: there is little of it, and none of it is marked.
const (
	headlessSlices = discoveryv1.LabelServiceName + "," + corev1.IsHeadlessService
	otherSlices    = discoveryv1.LabelServiceName + ",!" + corev1.IsHeadlessService + "," +
		discoveryv1.LabelManagedBy + "!=endpointslice-controller.k8s.io"
)

// kinds are what is watched of a cluster.
func (c *cluster) kinds() []watched {
	if version := c.source.Imports; version != "" {
		return []watched{
			c.watchServices(watched{kind: "serviceimports", group: schema.GroupVersion{Group: importGroup, Version: version},
				resource: "serviceimports", object: &serviceImport{}}),
			c.watchSlices(0, watched{kind: "endpointslices of serviceimports", selector: labelImport + "," + labelFrom}, labelImport),
		}
	}
	return []watched{
		c.watchServices(watched{kind: "services", group: corev1.SchemeGroupVersion, resource: "services", object: &corev1.Service{}}),
		c.watchSlices(0, watched{kind: "endpointslices of headless services", selector: headlessSlices}, discoveryv1.LabelServiceName),
		c.watchSlices(1, watched{kind: "endpointslices of others", selector: otherSlices}, discoveryv1.LabelServiceName),
	}
}

// watchServices keeps what is watched as Services.
func (c *cluster) watchServices(w watched) watched {
	w.known = func() iter.Seq[key] { return maps.Keys(c.services) }
	w.set = func(k key, o runtime.Object) {
		var s *service
		switch o := o.(type) {
		case *corev1.Service:
			s = newService(o)
		case *serviceImport:
			s = newImport(o)
		}
		c.setService(k, s, c.before)
	}
	return w
}

// watchSlices keeps what is watched as slices of the Services that a label names. Its
// number tells watches of one cluster apart.
func (c *cluster) watchSlices(number int, w watched, label string) watched {
	w.group, w.resource, w.object = discoveryv1.SchemeGroupVersion, "endpointslices", &discoveryv1.EndpointSlice{}
	w.known = func() iter.Seq[key] { return c.slicesOf(number) }
	w.set = func(k key, o runtime.Object) {
		var s *slice
		if o, ok := o.(*discoveryv1.EndpointSlice); ok {
			s = newSlice(o, label)
		}
		c.setSlice(number, k, s, c.before)
	}
	return w
}

// before is called before a Service changes.
func (c *cluster) before(k key) {
	if at := c.source.slot(c.Name); at != nil && at.current == c {
		c.source.mark(k)
	}
}

// locked implements listener.
func (c *cluster) locked(f func()) {
	c.source.mu.Lock()
	defer c.source.mu.Unlock()
	f()
}

// listed implements listener.
func (c *cluster) listed(string) {
	c.source.mu.Lock()
	c.unsynced--
	all := c.unsynced == 0
	c.source.mu.Unlock()
	if all {
		c.source.promote(c)
	}
}
