// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
)

// AwaitRemoved tells whether the DaemonSet that we are of, or its namespace, is gone or
// about to be. Who is told to end may be told before: one object is deleted after another,
// and a namespace's in any order. So it waits for a while, unless we are of no DaemonSet;
// and first, longer, for an API server that has told nothing of them yet.
//
// They are watched rather than asked for at the end: who removes them removes our
// permissions in the same moment, but a watch that has begun goes on.
func (c *Cluster) AwaitRemoved(patience time.Duration) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	began, synced := time.Now(), time.Time{}
	for c.opts.Self != "" {
		owners := c.owners.Load()
		if owners != nil && len(*owners) == 0 {
			return false
		}
		removed, known := isRemoved(owners)
		if removed {
			return true
		}
		if known && synced.IsZero() {
			synced = time.Now()
		}
		if known && time.Since(synced) >= patience || time.Since(began) >= max(patience, firstWordTime) {
			return false
		}
		<-tick.C
	}
	return false
}

// firstWordTime is how long the API server may take to tell of our DaemonSet at all. An
// agent that has just begun, on a busy cluster, has not been told.
const firstWordTime = 10 * time.Second

// isRemoved tells whether one of the owners is gone or going, and whether all are known.
func isRemoved(owners *[]cache.SharedIndexInformer) (removed, known bool) {
	if owners == nil {
		return false, false
	}
	known = true
	for _, owner := range *owners {
		if !owner.HasSynced() {
			known = false
			continue
		}
		if found := owner.GetIndexer().List(); len(found) == 0 || isGoing(found[0]) {
			return true, known
		}
	}
	return false, known
}

// ownerInterval is how soon our own pod is looked for again.
const ownerInterval = time.Second

// watchOwner watches the DaemonSet of the pod that we run in, and its namespace, until ctx
// ends. A pod of another kind is not watched.
func (c *Cluster) watchOwner(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), c.pods.HasSynced) {
		return
	}
	tick := time.NewTicker(ownerInterval)
	defer tick.Stop()
	for {
		if namespace, name, ok := c.owner(); ok {
			var owners []cache.SharedIndexInformer
			if name != "" {
				c.opts.Log.Info("watch for the removal of our DaemonSet", "daemonset", namespace+"/"+name)
				owners = append(owners, c.informer(daemonSets, namespace, named(name)), c.informer(namespaces, "", named(namespace)))
			}
			c.runOwners(ctx, owners...)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func named(name string) func(*metav1.ListOptions) {
	return func(l *metav1.ListOptions) {
		l.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	}
}

func (c *Cluster) runOwners(ctx context.Context, owners ...cache.SharedIndexInformer) {
	c.owners.Store(&owners)
	var all sync.WaitGroup
	for _, owner := range owners {
		all.Go(func() { owner.RunWithContext(ctx) })
	}
	all.Wait()
}

// owner finds the DaemonSet, without a name if our pod has none. It is false if our pod
// is not known yet.
func (c *Cluster) owner() (namespace, name string, ok bool) {
	found, err := c.pods.GetIndexer().ByIndex(byUID, c.opts.Self)
	if err != nil || len(found) == 0 {
		return "", "", false
	}
	m, ok := found[0].(*metav1.PartialObjectMetadata)
	if !ok {
		return "", "", false
	}
	for _, o := range m.OwnerReferences {
		if o.Kind == "DaemonSet" {
			return m.Namespace, o.Name, true
		}
	}
	return m.Namespace, "", true
}
