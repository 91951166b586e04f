// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// health says whether a cluster is heard.
type health struct {
	mu      sync.Mutex
	failing map[string]error // by kind, what went wrong last
	since   time.Time        // when the first of them began to fail
}

// heard notes that a kind is listed or watched again.
func (c *cluster) heard(kind string) {
	c.mu.Lock()
	away := c.failing[kind] != nil
	delete(c.failing, kind)
	back, since := away && len(c.failing) == 0, c.since
	c.mu.Unlock()
	if back {
		c.log.Info("the cluster is back", "away", time.Since(since).Round(time.Millisecond))
		c.source.revive(c)
	}
}

// failed notes what went wrong with a kind. It is logged when it is news.
func (c *cluster) failed(kind string, err error) {
	if errors.Is(err, context.Canceled) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return // it ends, or lists again
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing == nil {
		c.failing = make(map[string]error)
	}
	if len(c.failing) == 0 {
		c.since = time.Now()
	}
	if old := c.failing[kind]; old == nil || old.Error() != err.Error() {
		c.log.Warn("the cluster is away; its names stay as they were", "kind", kind, "err", err, "hint", hint(err))
	}
	c.failing[kind] = err
}

// away is for how long the cluster has not been heard, 0 if it is.
func (c *cluster) away() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failing) == 0 {
		return 0
	}
	return max(time.Since(c.since), 1)
}

// why is what went wrong last, empty while the cluster is heard.
func (c *cluster) why() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var texts []string
	for kind, err := range c.failing {
		texts = append(texts, fmt.Sprintf("%s: %v", kind, err))
	}
	slices.Sort(texts)
	return strings.Join(texts, "; ")
}

// hint is the remedy for what is wrong with a cluster.
func hint(err error) string {
	text := err.Error()
	switch {
	case apierrors.IsUnauthorized(err):
		return "its API server does not accept the credentials: renew them"
	case apierrors.IsForbidden(err):
		return "allow get, list and watch of it in all namespaces"
	case apierrors.IsNotFound(err):
		return "its API server does not have this kind: install it there, or leave this source out"
	case strings.Contains(text, "x509:") || strings.Contains(text, "tls:"):
		return "its certificate is not one that the kubeconfig trusts"
	}
	return "it is asked again, less and less often"
}

// words say where its records come from.
func (c *cluster) words() string {
	if away := c.away(); away > 0 {
		return fmt.Sprintf("%s (away for %s)", c.Name, away.Round(time.Second))
	}
	return c.Name
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
