// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// everyShape is how applications ask.
func everyShape() []shape {
	return []shape{
		{Server: at(primary), Connected: true},
		{Server: at(primary)},
		{Server: at(secondary), Connected: true},
		{Server: at(secondary), Mapped: true},
		{Server: at(primary), Connected: true, Mapped: true},
		{Server: at(primary6), Connected: true},
		{Server: at(primary6)},
	}
}

// under starts a querier of each shape and has each ask from now on.
func (w *world) under(t *testing.T) []*child {
	t.Helper()
	var all []*child
	for _, s := range everyShape() {
		s.Busy = true
		c := w.startQuerier(t, s)
		c.settle(t, 3)
		all = append(all, c)
	}
	return all
}

// Loading, moving connected sockets, and unloading cost no application an answer, and
// show none an error or another sender.
func TestLoadAndUnloadUnderLoad(t *testing.T) {
	w := newWorld(t)
	children := w.under(t)
	for round := range 3 {
		d, err := Load(w.opts)
		if err != nil {
			t.Fatal(err)
		}
		e := w.attend(t, d)
		stopAnswer, err := answer(e)
		if err != nil {
			t.Fatal(err)
		}
		w.enrol(t, e, scope())
		stopBeat := beatUntil(w.client.Do, e.Beat)
		if moved, err := d.Resteer(); moved != 4 || err != nil {
			t.Errorf("round %d: moved %d sockets, %v, want 4", round, moved, err)
		}
		for i, s := range everyShape() {
			r := children[i].report(t) // of the time while it was loaded
			r.wantUnharmed(t, s)
			children[i].settle(t, 5).wantFrom(t, s, fromTable)
		}
		stopBeat()
		if err := e.Withdraw(); err != nil {
			t.Error(err)
		}
		if err := d.Unload(answersRead); err != nil {
			t.Errorf("round %d: unload: %v", round, err)
		}
		stopAnswer()
		e.Close()
		d.Close()
		for i, s := range everyShape() {
			r := children[i].report(t)
			r.wantUnharmed(t, s)
			children[i].settle(t, 5).wantFrom(t, s, testenv.AnswerOf(s.Server.Addr()))
		}
	}
	wantClean(t, w.opts)
}

// wantUnharmed fails the test if a call failed, or an answer came from elsewhere.
func (r report) wantUnharmed(t *testing.T, s shape) {
	t.Helper()
	if len(r.Errors) > 0 {
		t.Errorf("%s: %v after %v", s, r.Errors, r.Answers)
	}
	for source := range r.Sources {
		if source != s.Server.String() {
			t.Errorf("%s: %d answers from %s", s, r.Sources[source], source)
		}
	}
}

// When the process that owns the listeners is killed, each call from then on goes to
// the nameserver that it names. What was on its way to the dead is lost, and a socket
// connected to it has the kernel's word for that.
func TestListenerKilledUnderLoad(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	arg, err := json.Marshal(w.opts)
	if err != nil {
		t.Fatal(err)
	}
	cmd := testenv.Command(t, "resolve", string(arg))
	resolver := pipe(t, cmd)
	w.client.Start(cmd)
	var ready resolverReady
	if err := resolver.out.Decode(&ready); err != nil || ready.Port != d.Port() {
		t.Fatalf("start resolver: %v", err)
	}
	shapes := []shape{{Server: at(primary)}, {Server: at(secondary)}, {Server: at(primary), Mapped: true}, {Server: at(primary6)}}
	var children []*child
	for _, s := range shapes {
		c := w.startQuerier(t, s)
		c.settle(t, 5).wantFrom(t, s, fromTable)
		children = append(children, c)
	}
	killed := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its sockets are closed now
	for _, server := range w.nameservers {
		server.Reset()
	}
	for _, s := range connected()[:5] {
		w.startQuerier(t, s).settle(t, 5).wantFrom(t, s, testenv.AnswerOf(s.Server.Addr()))
	}
	for i, s := range shapes {
		testenv.Eventually(t, waitMost, func() error { return children[i].lostAtMostOne(t, s) })
		children[i].settle(t, 5).wantFrom(t, s, testenv.AnswerOf(s.Server.Addr()))
	}
	t.Logf("all were answered %v after the kill", time.Since(killed).Round(time.Millisecond))
}

// lostAtMostOne is nil once the nameserver answers. The one question that the dead
// resolver had received may be lost.
func (c *child) lostAtMostOne(t *testing.T, s shape) error {
	t.Helper()
	r := c.report(t)
	if len(r.Errors) > 1 {
		t.Fatalf("%s: more than one question was lost: %v", s, r.Errors)
	}
	if r.Answers[testenv.AnswerOf(s.Server.Addr()).String()] == 0 {
		return fmt.Errorf("%s: no answer of the nameserver: %v", s, r)
	}
	return nil
}
