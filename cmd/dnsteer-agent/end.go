// SPDX-License-Identifier: Apache-2.0

package main

import "sync"

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
