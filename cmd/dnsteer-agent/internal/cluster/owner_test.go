// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"
	"time"

	"k8s.io/client-go/tools/cache"
)

// gone is what is told of an object that has been deleted.
type gone struct{ cache.SharedIndexInformer }

func (gone) HasSynced() bool           { return true }
func (gone) GetIndexer() cache.Indexer { return cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil) }

// Who is told to end before the API server has told of its own pod waits for that word.
func TestAwaitRemovedEarly(t *testing.T) {
	c := &Cluster{opts: Options{Self: "uid"}}
	time.AfterFunc(100*time.Millisecond, func() { c.owners.Store(&[]cache.SharedIndexInformer{gone{}}) })
	if !c.AwaitRemoved(time.Millisecond) {
		t.Error("it takes its removal for a restart")
	}
	alone := &Cluster{opts: Options{Self: "uid"}}
	alone.owners.Store(new([]cache.SharedIndexInformer))
	for what, c := range map[string]*Cluster{"of no DaemonSet": alone, "of no pod": {}} {
		if c.AwaitRemoved(time.Hour) {
			t.Errorf("%s: removed", what)
		}
	}
}
