// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
)

// Removed tells whether the DaemonSet that we are of is gone. It is watched rather than
// asked for at the end: who removes it removes our permissions in the same moment, but a
// watch that has begun goes on.
func (c *Cluster) Removed() bool { return c.removed.Load() }

// ownerInterval is how soon our own pod is looked for again.
const ownerInterval = time.Second

// watchOwner watches the DaemonSet of the pod that we run in, until ctx ends. A pod of
// another kind is not watched.
func (c *Cluster) watchOwner(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), c.pods.HasSynced) {
		return
	}
	tick := time.NewTicker(ownerInterval)
	defer tick.Stop()
	for {
		if namespace, name, ok := c.owner(); ok {
			if name != "" {
				c.opts.Log.Info("watch for the removal of our DaemonSet", "daemonset", namespace+"/"+name)
				c.informer(daemonSets, namespace, func(l *metav1.ListOptions) {
					l.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
				}).RunWithContext(ctx)
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
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
