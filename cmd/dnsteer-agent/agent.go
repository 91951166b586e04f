// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

// steerAnnotation of a pod keeps it from being steered if it is "false".
const steerAnnotation = "dnsteer.dev/steer"

// agent knows the attachments of the node, and has a scope for each of their namespaces.
type agent struct {
	datapath *loader.Datapath
	server   *resolver.Server // of all pods
	store    store
	log      *slog.Logger
	own      nsID // never a pod's
	entrance entrance

	mu          sync.Mutex // guards what follows; held while a scope begins or is withdrawn
	attachments map[cnirpc.ID]*attachment
	scopes      map[nsID]*scope
	draining    map[nsID]chan struct{} // closed when the scope before has let go
	closed      bool
}

// attachment is one ADD. Those of one pod share its namespace.
type attachment struct {
	network string
	ns      nsID
	steered bool   // false: policy leaves it alone
	path    string // where the namespace is seen from here; empty if it is not
}

var _ cnirpc.Agent = (*agent)(nil)

func newAgent(d *loader.Datapath, s store, log *slog.Logger) (*agent, error) {
	f, err := cnirpc.OpenNamespace("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	own, err := identify(f)
	if err != nil {
		return nil, fmt.Errorf("find own network namespace: %w", err)
	}
	server, err := resolver.New(resolver.Config{Logger: log})
	if err != nil {
		return nil, err
	}
	return &agent{
		datapath: d, server: server, store: s, log: log, own: own, entrance: newEntrance(),
		attachments: make(map[cnirpc.ID]*attachment), scopes: make(map[nsID]*scope),
		draining: make(map[nsID]chan struct{}),
	}, nil
}

// setTable replaces the names of all pods.
func (a *agent) setTable(t *resolver.Table) { a.server.SetTable(t) }

// Add implements cnirpc.Agent.
func (a *agent) Add(_ context.Context, at cnirpc.Attachment) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	ns, err := a.add(at)
	if err != nil {
		return err
	}
	if err := a.store.put(record{at, ns.dev, ns.ino}); err != nil {
		a.log.Warn("the pod will not be found after a restart", "container", at.ContainerID, "err", err)
	}
	return nil
}

// add enrols; it may give up mu meanwhile.
func (a *agent) add(at cnirpc.Attachment) (nsID, error) {
	ns, err := identify(at.Namespace)
	if err != nil {
		return ns, fmt.Errorf("enrol pod: %w", err)
	}
	if ns == a.own {
		return ns, errors.New("enrol pod: the namespace is the node's own")
	}
	if known, ok := a.attachments[at.ID]; ok && known.ns != ns {
		// The runtime has begun anew under the same name.
		if err := a.forget(at.ID); err != nil {
			a.log.Warn("end scope", "container", at.ContainerID, "err", err)
		}
	}
	a.awaitDrained(ns)
	if a.closed {
		return ns, fmt.Errorf("enrol pod: %w", cnirpc.ErrUnavailable)
	}
	steered := at.Annotations[steerAnnotation] != "false"
	if _, ok := a.scopes[ns]; steered && !ok {
		log := a.log.With("pod", at.Pod.Namespace+"/"+at.Pod.Name)
		s, err := a.newScope(at.Namespace, at.DNS, log)
		if err != nil {
			return ns, fmt.Errorf("enrol pod: %w", err)
		}
		a.scopes[ns] = s
	}
	known := &attachment{network: at.Network, ns: ns, steered: steered}
	if isAt(at.Path, ns) {
		known.path = at.Path
	}
	a.attachments[at.ID] = known
	return ns, nil
}

// Del implements cnirpc.Agent.
func (a *agent) Del(_ context.Context, at cnirpc.Attachment) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return errors.Join(a.store.remove(at.ID), a.forget(at.ID))
}

// forget ends the scope with its last attachment.
func (a *agent) forget(id cnirpc.ID) error {
	at, ok := a.attachments[id]
	if !ok {
		return nil
	}
	delete(a.attachments, id)
	s, ok := a.scopes[at.ns]
	if !ok || a.isUsed(at.ns) {
		return nil
	}
	return a.endScope(at.ns, s)
}

// endScope withdraws a scope, and drains it while others begin and end.
func (a *agent) endScope(ns nsID, s *scope) error {
	delete(a.scopes, ns)
	err := s.withdraw()
	drained := make(chan struct{})
	a.draining[ns] = drained
	go func() {
		err := s.drain(a.datapath.Port())
		if err != nil {
			s.log.Warn("end scope", "err", err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.draining, ns)
		close(drained)
	}()
	return err
}

// awaitDrained gives up mu until the scope that a namespace had has left its port.
func (a *agent) awaitDrained(ns nsID) {
	for a.draining[ns] != nil {
		drained := a.draining[ns]
		a.mu.Unlock()
		<-drained
		a.mu.Lock()
	}
}

func (a *agent) isUsed(ns nsID) bool {
	for _, at := range a.attachments {
		if at.ns == ns && at.steered {
			return true
		}
	}
	return false
}

// Check implements cnirpc.Agent.
func (a *agent) Check(_ context.Context, at cnirpc.Attachment) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	known, ok := a.attachments[at.ID]
	if !ok {
		return cnirpc.ErrUnknown
	}
	ns, err := identify(at.Namespace)
	if err != nil || ns != known.ns {
		return fmt.Errorf("it is another namespace than that which was enrolled: %w", cnirpc.ErrUnknown)
	}
	if !known.steered {
		return nil
	}
	return a.scopes[ns].check()
}

// check tells whether the scope's resolver is still there.
func (s *scope) check() error {
	select {
	case err := <-s.served:
		s.served <- err
		return fmt.Errorf("the resolver has ended: %w", err)
	default:
		return s.within(s.enrolment.Beat)
	}
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
	for id, at := range a.attachments {
		if at.network == network && !keep[id] {
			errs = append(errs, a.store.remove(id), a.forget(id))
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
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for ns, s := range a.scopes {
		if err := a.endScope(ns, s); err != nil {
			a.log.Warn("end scope", "err", err)
		}
	}
	for len(a.draining) > 0 {
		for ns := range a.draining {
			a.awaitDrained(ns)
		}
	}
	if _, err := a.datapath.Return(); err != nil {
		a.log.Warn("some connected sockets stay with the resolver", "err", err)
	}
}
