// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/resolvconf"
)

const (
	// reconcileInterval is how long a pod may be steered or not against policy, or a
	// namespace live on for our descriptors alone, when nobody told us.
	reconcileInterval = 5 * time.Second
	// confInterval is how soon a pod's resolv.conf is read again. The kubelet writes it
	// once; who edits it by hand can wait.
	confInterval = time.Minute
	// settledAtOnce is how many pods reconcile settles side by side, as many as plugins may
	// announce: one whose own resolver or filesystem is silent takes a second or two.
	settledAtOnce = 64
)

// reconcileLoop does what nobody tells: pods that ran before, a DEL that came while there
// was no agent, containerd's GC that never comes, what changes in the cluster.
func (a *agent) reconcileLoop(ctx context.Context) {
	tick := time.NewTicker(reconcileInterval)
	defer tick.Stop()
	var changed <-chan struct{} // never, without a cluster
	if a.cluster != nil {
		changed = a.cluster.Changed()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changed:
		}
		a.reconcile()
	}
}

// reconcile makes of each pod of the node what policy wants it to be.
func (a *agent) reconcile() {
	a.turn.Lock()
	defer a.turn.Unlock()
	told := a.cluster == nil || a.cluster.Synced()
	seen, err := a.scanner.Scan()
	if err != nil {
		a.log.Warn("go by what the runtime tells", "err", err)
	}
	late := a.settleAll(a.look(seen))
	if told && err == nil {
		a.endLeft()
	}
	if len(late) > 0 {
		a.move("with their nameserver", a.datapath.ResteerIn, late...)
	}
}

// settleAll settles pods, and returns those that are steered now, while their processes ran
// before.
func (a *agent) settleAll(pods []*pod) (late []*pod) {
	var mu sync.Mutex // guards late
	var all sync.WaitGroup
	turns := make(chan struct{}, settledAtOnce)
	for _, p := range pods {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			a.readConf(p)
			if a.settleOne(p) {
				mu.Lock()
				defer mu.Unlock()
				late = append(late, p)
			}
		})
	}
	all.Wait()
	return late
}

// look brings what is known into line with what is seen, and returns all pods. Where nothing
// could be seen (nil), no pod has gone for that.
func (a *agent) look(seen map[string]proc.Sighting) []*pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.detachGone()
	attached := make(map[string]bool) // by UID
	for _, p := range a.pods {
		if !p.isNode && seen != nil {
			p.pid = 0
		}
		if p.UID != "" && len(p.attachments) > 0 {
			attached[p.UID] = true
		}
	}
	for uid, s := range seen {
		// Of a pod that the runtime told of, another namespace is what a container made
		// for itself.
		if p := a.pods[s.Namespace]; !attached[uid] || p != nil && p.UID == uid && len(p.attachments) > 0 {
			a.meetSeen(s)
		}
	}
	var all []*pod
	for _, p := range a.pods {
		if !p.isGone() {
			all = append(all, p)
			continue
		}
		p.logger(a.log).Info("forget a pod that has gone")
		if err := a.forget(p); err != nil {
			p.logger(a.log).Warn("end scope", "err", err)
		}
	}
	return all
}

// detachGone forgets the attachments whose namespace the runtime has taken away.
func (a *agent) detachGone() {
	for id, p := range a.attachments {
		if p.path == "" {
			continue
		}
		if is, err := a.isAt(p.path, p.ns); is || err != nil {
			continue
		}
		a.log.Info("forget a pod that has gone", "container", id.ContainerID)
		if err := errors.Join(a.store.remove(id), a.detach(id)); err != nil {
			a.log.Warn("end scope", "container", id.ContainerID, "err", err)
		}
	}
}

// meetNode makes the node's own network known as if it were a pod's.
func (a *agent) meetNode() error {
	p, err := newPod(a.home.file)
	if err != nil {
		return err
	}
	p.isNode, p.pid, p.Name = true, 1, "(node)"
	a.pods[p.ns] = p
	return nil
}

// meetSeen makes a pod known by a process of its own. One that has ended meanwhile was
// the last of its pod, or another will be seen the next time.
func (a *agent) meetSeen(s proc.Sighting) {
	p := a.pods[s.Namespace]
	if p == nil {
		f, err := os.Open(s.Path)
		if err != nil {
			return
		}
		p, err = newPod(f)
		_ = f.Close()
		if err != nil {
			return
		}
		if p.ns != s.Namespace {
			_ = p.file.Close()
			return
		}
		a.pods[p.ns] = p
	}
	p.see(s)
}

// settleOne settles a pod, unless it has gone meanwhile, and tells whether it is steered
// now although its processes ran before.
func (a *agent) settleOne(p *pod) (late bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pods[p.ns] != p || a.closed {
		return false
	}
	known := p.known
	a.decide(p)
	a.checkResolver(p)
	had := p.scope != nil
	err := a.settle(p)
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != p.failed {
		p.logger(a.log).Warn("a pod is not steered", "err", err)
	}
	p.failed = text
	if p.known != known && (known == nil || *known != *p.known) {
		a.remember(p)
	}
	return !had && p.scope != nil && p.pid != 0
}

// checkResolver ends the scope of a pod whose resolver has ended or is not what it was, or that
// another one is to answer: what comes next is settled anew.
func (a *agent) checkResolver(p *pod) {
	switch s := p.scope.(type) {
	case *nodeScope:
		if !p.decision.foreign && s.serves() {
			return
		}
	case *podScope: // one that listens has taken the port, whatever policy says
		if (p.decision.foreign || s.listens) && s.isSame() {
			return
		}
	default:
		return
	}
	p.logger(a.log).Info("a pod's resolver has ended, or another one is to answer it")
	if err := a.endScope(p); err != nil {
		p.logger(a.log).Warn("end scope", "err", err)
	}
}

// readConf reads the resolv.conf that the pod's processes read. It waits for the pod's
// filesystem, so mu is not held.
func (a *agent) readConf(p *pod) {
	a.mu.Lock()
	pid, due := p.pid, !p.confSilent && time.Since(p.confRead) > confInterval
	a.mu.Unlock()
	if pid == 0 || !due {
		return
	}
	text, err := proc.ResolvConf(procDir, pid)
	a.mu.Lock()
	defer a.mu.Unlock()
	p.confRead = time.Now()
	p.confSilent = errors.Is(err, proc.ErrSilent)
	if err != nil {
		p.logger(a.log).Debug("go by what the runtime told", "err", err)
		return
	}
	conf := resolvconf.Parse(text)
	if len(conf.Nameservers) == 0 {
		return // not written yet
	}
	p.conf = conf
	if p.scope != nil {
		p.scope.setConf(conf)
	}
}
