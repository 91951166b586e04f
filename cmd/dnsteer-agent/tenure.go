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

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/handover"
	"github.com/dnsteer/dnsteer/cmd/internal/agentstatus"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/loader"
)

// run runs until ctx ends: as the agent of the node, or waiting to be it.
func (s *settings) run(ctx context.Context, log *slog.Logger) error {
	defer func() { _ = s.setRelieved(false) }()
	ask := !s.isRelieved()
	if !ask {
		log.Info("started again after it was relieved: no agent is asked to hand over")
	}
	var asked time.Time
	for ctx.Err() == nil {
		c, err := s.acquire(ctx, ask, &asked, log)
		if ctx.Err() != nil {
			return nil // told to end before it began
		}
		if err != nil {
			return err
		}
		t := tenure{settings: s, log: log}
		relieved, err := t.serve(ctx, c)
		ask = ask && !relieved // we do not take back what the next one wants
		if errors.Is(err, errNotTaken) {
			log.Warn("wait for the lock: nobody has taken over", "err", err)
			continue
		}
		if err != nil || !relieved {
			return err
		}
		log.Info("handed over; waiting, should the next agent end")
	}
	return nil
}

// errNotTaken says that a hand-over did not come to its end, and we are not the agent, or
// not any more.
var errNotTaken = errors.New("hand-over failed")

// tenure is the time in which this process is the agent of the node.
type tenure struct {
	*settings
	log     *slog.Logger
	agent   *agent
	lock    *os.File
	plugins *pluginSocket
	tasks   sync.WaitGroup
}

// serve is the whole of it. It returns whether another agent has taken over, or is to: with
// errNotTaken we may have to begin anew.
func (t *tenure) serve(ctx context.Context, from claim) (relieved bool, err error) {
	defer func() {
		if t.lock != nil {
			_ = t.lock.Close() // the next agent has a descriptor of its own
		}
	}()
	t.lock = from.lock
	if from.offer != nil {
		defer from.offer.decline()
	}
	// When ctx ends it works on until it has made up its mind what to leave.
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer t.tasks.Wait()
	defer stop()
	if err := t.begin(ctx, working, from.offer); err != nil {
		return false, err
	}
	defer t.agent.datapath.Close()
	defer t.agent.heart.Close()
	if err := t.open(); err != nil {
		t.agent.close()
		return false, err
	}
	relieved, err = t.hold(ctx, working)
	if relieved {
		stop()
		t.plugins.close()
		t.agent.relieve()
		return true, err
	}
	c := t.agent.cluster
	removed := c != nil && c.AwaitRemoved(removalTime)
	stop()
	t.plugins.close()
	err = errors.Join(err, cnirpc.Remove(t.socket), t.removePaths())
	t.agent.close()
	if removed {
		t.tasks.Wait() // one of them installs the plugin
		t.log.Info("the DaemonSet has been removed: take everything off the node")
		t.agent.datapath.Close() // and with it our use of it
		err = errors.Join(err, t.removeAll(t.log))
	}
	return false, err
}

// removalTime is how long an agent that is told to end serves on to find out whether for
// good: much less than the kubelet gives it.
const removalTime = 2 * time.Second

// begin serves the pods that are known from before. What it starts ends with working.
func (t *tenure) begin(ctx, working context.Context, o *offer) error {
	var err error
	if t.agent, err = t.newAgent(t.log); err != nil {
		return err
	}
	a := t.agent
	if err = t.load(o); err != nil {
		return err
	}
	if a.heart, err = a.datapath.NewHeart(); err != nil {
		a.datapath.Close()
		return err
	}
	m, err := newPacemaker(a)
	if err == nil {
		t.tasks.Go(func() { m.run(working) })
		if a.cluster != nil {
			t.tasks.Go(func() { a.cluster.Run(working) })
		}
		if a.sources != nil {
			t.tasks.Go(func() { a.sources.Run(working) })
			t.awaitSources(ctx)
		}
		err = t.takeOver(ctx, o)
	}
	if err != nil {
		a.relieve()
		a.heart.Close()
		a.datapath.Close()
		return err
	}
	if o == nil {
		a.restore()
	}
	if o == nil || o.fresh {
		a.reconcile()
	}
	return nil
}

// sourcesTime is how long pods wait for names of other sources than files.
const sourcesTime = 3 * time.Second

// awaitSources gives sources of names time to tell all that they have: no query that the
// agent before us would have answered is to find them empty.
func (t *tenure) awaitSources(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sourcesTime)
	defer cancel()
	if missing := t.agent.sources.Await(ctx); len(missing) > 0 {
		t.log.Warn("begin without the names of some clusters", "clusters", missing)
	}
}

// lingerTime is for answers that are under way when a datapath is unloaded.
const lingerTime = 500 * time.Millisecond

// load loads or adopts the datapath, so that nobody unloads it who shares it with us. One
// that this version does not understand is replaced; the agent that runs, if any, ends its
// scopes before.
func (t *tenure) load(o *offer) error {
	d, _, err := loader.Acquire(t.opts)
	if errors.Is(err, loader.ErrLayout) {
		t.log.Info("replace the datapath: it has another layout")
		if o != nil {
			if err := o.accept(t.agent, true); err != nil {
				return errors.Join(errNotTaken, err)
			}
		}
		if err := loader.Unload(t.opts, lingerTime); err != nil && !errors.Is(err, loader.ErrNotLoaded) {
			return err
		}
		d, _, err = loader.Acquire(t.opts)
	}
	if err != nil {
		return err
	}
	t.agent.datapath = d
	if loaded := d.Options(); !loaded.SameNameservers(t.opts) {
		t.log.Warn("not all nameservers are steered: so it was loaded", "only", loaded.Only, "except", loaded.Except)
	}
	if err := d.CountLeaks(t.countLeaks); err != nil {
		d.Close()
		return err
	}
	return nil
}

// takeOver takes over from the agent that runs.
func (t *tenure) takeOver(ctx context.Context, o *offer) error {
	if o == nil {
		return nil
	}
	defer context.AfterFunc(ctx, o.decline)()
	if !o.accepted {
		if err := o.accept(t.agent, false); err != nil {
			return errors.Join(errNotTaken, err)
		}
	}
	lock, socket, err := o.finish()
	if err != nil {
		c, lockErr := t.inherit(ctx)
		if lockErr != nil {
			return errors.Join(errNotTaken, err, lockErr)
		}
		lock = c.lock
	}
	t.lock = lock
	t.plugins = &pluginSocket{agent: t.agent, log: t.log, listener: socket}
	t.log.Info("took over", "pods", len(t.agent.pods))
	return nil
}

// inherit takes the lock of an agent that died while it handed over: everything else is ours
// already, and the plugins' socket is opened anew. The lock is free a moment after the
// connection has ended. One that was told to end has ended its scopes, and taken its door away.
func (t *tenure) inherit(ctx context.Context) (claim, error) {
	ctx, stop := context.WithTimeout(ctx, answerTimeout)
	defer stop()
	c, err := t.acquire(ctx, false, nil, t.log)
	if err != nil {
		return claim{}, err
	}
	if _, err := os.Stat(t.doorPath()); err != nil {
		_ = c.lock.Close()
		return claim{}, fmt.Errorf("inherit from the agent that ran: %w", err)
	}
	return c, nil
}

// open lets plugins ask.
func (t *tenure) open() error {
	if t.plugins == nil || t.plugins.listener == nil {
		l, err := cnirpc.Listen(t.socket)
		if err != nil {
			return err
		}
		t.plugins = &pluginSocket{agent: t.agent, log: t.log, listener: l}
	}
	return t.plugins.resume()
}

// hold does what an agent does, until ctx ends or another has taken over. What it starts
// ends with working.
func (t *tenure) hold(ctx, working context.Context) (relieved bool, err error) {
	l, err := handover.Listen(t.doorPath())
	if err != nil {
		return false, err
	}
	defer l.Close()
	questions, err := serveStatus(agentstatus.Socket(t.socket), t.status, t.log)
	if err != nil {
		return false, err
	}
	defer questions.close()
	t.tasks.Go(func() { t.watchNames(working, t.agent) })
	t.tasks.Go(func() { t.agent.reconcileLoop(working) })
	if t.metrics != "" {
		t.tasks.Go(func() { t.servePage(working) })
	}
	if t.conflist.Plugin != "" {
		t.tasks.Go(func() {
			t.conflist.Watch(working, func(changed []string, err error) { reportInstall(t.log, changed, err) })
		})
	}
	t.log.Info("serving", "cgroup", t.opts.Cgroup, "socket", t.socket)
	d := &door{agent: t.agent, listener: l, lock: t.lock, plugins: t.plugins, mark: t.setRelieved}
	return d.open(ctx)
}
