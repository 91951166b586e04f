// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/cmd/internal/resolvconf"
)

// decide says what policy wants of a pod, as it is known now.
func (a *agent) decide(p *pod) {
	if a.cluster != nil {
		if known, ok := a.cluster.Pod(p.UID); ok {
			p.known = &known
			p.Namespace, p.Name = known.Namespace, known.Name
		}
	}
	p.decision = a.policy.decide(p.facts())
}

// settle makes of a pod what was decided. It may give up mu meanwhile.
func (a *agent) settle(p *pod) error {
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
	for p.beginning != nil || a.draining[p.ns] != nil {
		a.awaitDrained(p.ns)
		a.await(p.beginning)
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
	if foreignErr == nil && !own.listens {
		foreignErr = errors.Join(errNone, own.withdraw())
	}
	if foreignErr != nil {
		return nil, errors.Join(err, foreignErr)
	}
	return own, nil
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
		a.await(a.draining[ns])
	}
}

// await gives up mu until something is closed, if it is there.
func (a *agent) await(closed <-chan struct{}) {
	if closed == nil {
		return
	}
	a.mu.Unlock()
	<-closed
	a.mu.Lock()
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
