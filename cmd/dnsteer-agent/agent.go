// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/cmd/internal/names"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

// agent knows the pods of the node, and has a scope for each that is to be steered.
type agent struct {
	datapath *loader.Datapath
	heart    *loader.Heart    // of all pods
	server   *resolver.Server // of all pods
	names    *resolver.Names  // what it answers itself
	files    *resolver.Layer  // of names, the first
	read     string           // what files were when they were read
	sources  *names.Sources   // of the other layers; nil: there are none
	cluster  *cluster.Cluster // nil: there is no API server to ask
	policy   policy
	scanner  *proc.Scanner // reconcile's
	store    store
	log      *slog.Logger
	home     home
	root     string           // where the node's files are seen from here
	own      proc.NamespaceID // the agent's, which is the node's: never a pod's
	turn     sync.Mutex       // of reconcile, or a hand-over

	mu          sync.Mutex // guards what follows; held while a scope is withdrawn
	pods        map[proc.NamespaceID]*pod
	attachments map[cnirpc.ID]*pod
	draining    map[proc.NamespaceID]chan struct{} // closed when the scope before has let go
	closed      bool
	leftEnded   bool           // what an agent before us left has been withdrawn
	beginnings  sync.WaitGroup // scopes that begin; none does once it is closed
}

var _ cnirpc.Agent = (*agent)(nil)

// knownTimeout is how long an ADD waits for the API server to tell of the pod, which the
// kubelet has been told of before. The plugin waits for twice as long.
const knownTimeout = time.Second

// Add implements cnirpc.Agent.
func (a *agent) Add(ctx context.Context, at cnirpc.Attachment) error {
	p, err := newPod(at.Namespace)
	if err != nil {
		return fmt.Errorf("enrol pod: %w", err)
	}
	if p.ns == a.own {
		_ = p.file.Close()
		return errors.New("enrol pod: the namespace is the node's own")
	}
	a.awaitKnown(ctx, at.Pod.UID)
	a.mu.Lock()
	defer a.mu.Unlock()
	is, _ := a.isAt(at.Path, p.ns)
	if !is && ctx.Err() != nil {
		// Its DEL may have come before: it would be known for ever.
		_ = p.file.Close()
		return errors.New("enrol pod: nobody waits for it, and its namespace has gone")
	}
	if old, ok := a.attachments[at.ID]; ok && old.ns != p.ns {
		// The runtime has begun anew under the same name.
		if err := a.detach(at.ID); err != nil {
			a.log.Warn("end scope", "container", at.ContainerID, "err", err)
		}
	}
	p = a.meet(p)
	p.attach(at)
	if is {
		p.path = at.Path
	}
	a.attachments[at.ID] = p
	a.decide(p)
	if ctx.Err() != nil {
		// It runs by now, perhaps: reconcile steers it, and moves what it has connected.
		a.remember(p)
		return nil
	}
	if err := a.settle(p); err != nil {
		return errors.Join(fmt.Errorf("enrol pod: %w", err), a.detach(at.ID))
	}
	a.remember(p)
	return nil
}

// meet returns the pod that is known by the same namespace, or makes p known.
func (a *agent) meet(p *pod) *pod {
	if known, ok := a.pods[p.ns]; ok {
		_ = p.file.Close()
		return known
	}
	a.pods[p.ns] = p
	return p
}

// awaitKnown gives the API server time to tell of a pod that is new.
func (a *agent) awaitKnown(ctx context.Context, uid string) {
	if a.cluster == nil || uid == "" || !a.cluster.Synced() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, knownTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, ok := a.cluster.Pod(uid); ok {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Del implements cnirpc.Agent.
func (a *agent) Del(_ context.Context, at cnirpc.Attachment) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return errors.Join(a.store.remove(at.ID), a.detach(at.ID))
}

// detach forgets an attachment, and the pod with its last one.
func (a *agent) detach(id cnirpc.ID) error {
	p, ok := a.attachments[id]
	if !ok {
		return nil
	}
	delete(a.attachments, id)
	delete(p.attachments, id)
	if len(p.attachments) > 0 {
		return nil
	}
	// Its processes end, whatever the last look at them saw.
	p.pid = 0
	return a.forget(p)
}

// Check implements cnirpc.Agent.
func (a *agent) Check(_ context.Context, at cnirpc.Attachment) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.attachments[at.ID]
	if !ok {
		return cnirpc.ErrUnknown
	}
	ns, err := proc.Identify(at.Namespace)
	if err != nil || ns != p.ns {
		return fmt.Errorf("it is another namespace than that which was enrolled: %w", cnirpc.ErrUnknown)
	}
	if p.scope == nil {
		if p.decision.steer {
			return errors.New("it is not steered: " + p.failed)
		}
		return nil
	}
	return p.scope.check()
}

// GC implements cnirpc.Agent.
func (a *agent) GC(_ context.Context, network string, valid []cnirpc.ID) error {
	keep := make(map[cnirpc.ID]bool)
	for _, id := range valid {
		keep[id] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for id, p := range a.attachments {
		if p.attachments[id].Network == network && !keep[id] {
			errs = append(errs, a.store.remove(id), a.detach(id))
		}
	}
	return errors.Join(errs...)
}

// Status implements cnirpc.Agent.
func (a *agent) Status(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return cnirpc.ErrUnavailable
	}
	return nil
}
