// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"syscall"
	"time"
)

// reconcileInterval is how long a namespace may live on for our descriptors alone, when
// a runtime deleted the pod and we were not told.
const reconcileInterval = 5 * time.Second

// reconcileLoop does what runtimes do not: containerd calls no GC, and a DEL may come
// while there is no agent.
func (a *agent) reconcileLoop(ctx context.Context) {
	tick := time.NewTicker(reconcileInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.reconcile()
		}
	}
}

// reconcile forgets the attachments whose namespace the runtime has taken away.
func (a *agent) reconcile() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, at := range a.attachments {
		if at.path == "" || isAt(at.path, at.ns) {
			continue
		}
		a.log.Info("forget a pod that has gone", "container", id.ContainerID)
		if err := a.store.remove(id); err != nil {
			a.log.Warn("forget a pod", "err", err)
		}
		if err := a.forget(id); err != nil {
			a.log.Warn("end scope", "container", id.ContainerID, "err", err)
		}
	}
}

// isAt tells whether a namespace is what a path names.
func isAt(path string, ns nsID) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && ns == nsID{uint64(st.Dev), st.Ino}
}
