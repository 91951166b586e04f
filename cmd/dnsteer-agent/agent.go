// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/cmd/internal/names"
	"github.com/dnsteer/dnsteer/cmd/internal/resolvconf"
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
	if old, ok := a.attachments[at.ID]; ok && old.ns != p.ns {
		// The runtime has begun anew under the same name.
		if err := a.detach(at.ID); err != nil {
			a.log.Warn("end scope", "container", at.ContainerID, "err", err)
		}
	}
	p = a.meet(p)
	p.attach(at)
	if proc.IsAt(a.onNode(at.Path), p.ns) {
		p.path = at.Path
	}
	a.attachments[at.ID] = p
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

// settle makes of a pod what policy wants it to be. It may give up mu meanwhile.
func (a *agent) settle(p *pod) error {
	if a.cluster != nil {
		if known, ok := a.cluster.Pod(p.UID); ok {
			p.known = &known
			p.Namespace, p.Name = known.Namespace, known.Name
		}
	}
	p.decision = a.policy.decide(p.facts())
	if p.scope != nil && !p.decision.steer {
		return a.endScope(p)
	}
	if p.scope != nil || !p.decision.steer {
		return nil
	}
	return a.beginScope(p)
}

// beginScope gives a pod a scope; mu is given up meanwhile. What was decided or known
// since, the next settle sees.
func (a *agent) beginScope(p *pod) error {
	a.awaitDrained(p.ns)
	for p.beginning != nil {
		other := p.beginning
		a.mu.Unlock()
		<-other
		a.mu.Lock()
	}
	if a.closed || a.pods[p.ns] != p { // it was forgotten meanwhile
		return cnirpc.ErrUnavailable
	}
	if p.scope != nil {
		return nil
	}
	begun := make(chan struct{})
	p.beginning, p.holds = begun, p.holds+1
	a.beginnings.Add(1)
	plan := plan{namespace: p.file, conf: p.conf, foreign: p.decision.foreign, log: p.logger(a.log)}
	a.mu.Unlock()
	s, err := a.newScope(plan)
	a.mu.Lock()
	p.beginning = nil
	close(begun)
	a.beginnings.Done()
	if err == nil && (a.closed || a.pods[p.ns] != p) {
		err = errors.Join(cnirpc.ErrUnavailable, s.withdraw(), s.drain())
	} else if err == nil {
		p.scope = s
	}
	a.release(p)
	return err
}

// release closes the namespace of a pod that nobody knows or uses any more.
func (a *agent) release(p *pod) {
	if p.holds--; p.holds == 0 && a.pods[p.ns] != p {
		_ = p.file.Close()
	}
}

// plan is what a scope is made of.
type plan struct {
	namespace *os.File // stays the pod's, which outlives the scope
	conf      resolvconf.Conf
	foreign   bool // the pod's own resolver answers
	log       *slog.Logger
}

// newScope steers a pod to the node's resolver, or to its own where it has one.
func (a *agent) newScope(p plan) (scope, error) {
	if p.foreign {
		return a.newPodScope(p)
	}
	s, err := a.newNodeScope(p)
	if !errors.Is(err, unix.EADDRINUSE) {
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	own, foreignErr := a.newPodScope(p)
	if foreignErr != nil {
		return nil, errors.Join(err, foreignErr)
	}
	return own, nil
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

// forget ends a pod's scope, and lets go of its namespace.
func (a *agent) forget(p *pod) error {
	delete(a.pods, p.ns)
	if p.scope != nil {
		return a.endScope(p)
	}
	if p.holds == 0 {
		return p.file.Close()
	}
	return nil // for release to do
}

// endScope withdraws a scope, and drains it while others begin and end. Sockets of
// processes that live on go back to their nameserver first.
func (a *agent) endScope(p *pod) error {
	s, alive := p.scope, p.pid != 0
	p.scope, p.holds = nil, p.holds+1
	err := s.withdraw()
	drained := make(chan struct{})
	a.draining[p.ns] = drained
	go func() {
		if alive {
			a.move("with a resolver that goes", a.datapath.ReturnIn, p)
		}
		if err := s.drain(); err != nil {
			p.logger(a.log).Warn("end scope", "err", err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.draining, p.ns)
		a.release(p)
		close(drained)
	}()
	return err
}

// awaitDrained gives up mu until the scope that a namespace had has left its port.
func (a *agent) awaitDrained(ns proc.NamespaceID) {
	for a.draining[ns] != nil {
		drained := a.draining[ns]
		a.mu.Unlock()
		<-drained
		a.mu.Lock()
	}
}

// move moves the connected sockets of pods.
func (a *agent) move(stay string, move func(...string) (int, error), pods ...*pod) {
	var names []string
	for _, p := range pods {
		names = append(names, p.ns.String())
	}
	moved, err := move(names...)
	if err != nil {
		a.log.Warn("some connected sockets stay "+stay, "err", err)
	}
	if moved > 0 {
		a.log.Info("moved connected sockets", "pods", len(pods), "sockets", moved)
	}
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

// close ends all scopes and gives connected sockets back. The datapath stays loaded, and
// what is stored stays known, for the agent that comes next.
func (a *agent) close() {
	a.endWork()
	a.endAll()
	a.letGo()
}

// endWork sees to it that no scope begins any more.
func (a *agent) endWork() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.beginnings.Wait()
}

// endAll ends all scopes, and returns when their listeners are closed. The pods stay known.
func (a *agent) endAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ending []*pod
	for _, p := range a.pods {
		if p.scope != nil {
			ending = append(ending, p)
			if err := p.scope.withdraw(); err != nil {
				p.logger(a.log).Warn("end scope", "err", err)
			}
		}
	}
	if _, err := a.datapath.Return(); err != nil {
		a.log.Warn("some connected sockets stay with the resolver", "err", err)
	}
	for _, p := range ending {
		p.pid = 0 // its sockets have been returned
		if err := a.endScope(p); err != nil {
			p.logger(a.log).Warn("end scope", "err", err)
		}
	}
	a.awaitAllDrained()
}

func (a *agent) awaitAllDrained() {
	for len(a.draining) > 0 {
		for ns := range a.draining {
			a.awaitDrained(ns)
		}
	}
}

// relieve leaves everything to another agent, which serves it already: what we have read
// is answered, and nothing withdrawn.
func (a *agent) relieve() {
	a.endWork()
	var all sync.WaitGroup
	a.mu.Lock()
	for _, p := range a.pods {
		if s, ok := p.scope.(*nodeScope); ok {
			all.Go(s.letGo)
		}
		p.scope = nil
	}
	a.mu.Unlock()
	all.Wait()
	a.letGo()
}

// letGo gives up the namespaces.
func (a *agent) letGo() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.awaitAllDrained()
	for _, p := range a.pods {
		_ = p.file.Close()
	}
	clear(a.pods)
	clear(a.attachments)
}

// reclaim makes the scopes ours again after a hand-over that failed: another agent may
// have hung them on its own heart, and died.
func (a *agent) reclaim() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.pods {
		s, ok := p.scope.(*nodeScope)
		if !ok {
			continue
		}
		if err := s.enrol(); err != nil {
			p.logger(a.log).Warn("a pod is not steered", "err", err)
		}
	}
}
