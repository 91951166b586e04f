// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"strings"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/test/dnsteer"
)

const (
	// shortPatience ends queries that are lost as expected, so that there are more.
	shortPatience = 2 * time.Second
	// hangLimit is the age of the last heartbeat from which on a resolver is passed by.
	hangLimit = 2 * time.Second
)

// TestResolverHung stops the resolver's process: its sockets live and swallow queries
// until its heartbeat is two seconds old.
func TestResolverHung(t *testing.T) {
	w := newWorld(t)
	service := w.run(t)
	load := w.load(t, shortPatience, Unconnected, PerQuery, TCP)
	load.await("answered by the resolver", by(byTable, 0))
	resume := pause(t, service.Worker())
	hung := now() + hangLimit
	load.await("answered by its nameserver", by(byNameserver, hung))
	resumed := now()
	resume()
	load.await("answered by the resolver again", by(byTable, resumed))
	queries := load.stop(0)
	service.Stop()

	assertAnswered(t, since(queries, hung))
	if n := count(endedBefore(queries, resumed), by(byTable, hung)); n > 0 {
		t.Errorf("%d queries were answered by a resolver that stood still", n)
	}
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// TestRunKilled kills the supervisor. The resolver notices, answers what has arrived
// and goes; the datapath stays, and the next run adopts it. No query is lost at any
// time. Limit: connected sockets, which pass no hook, are refused until the next run.
func TestRunKilled(t *testing.T) {
	w := newWorld(t)
	load := w.load(t, patience, Unconnected, PerQuery, TCP)
	far := w.farLoad(t, Unconnected, PerQuery, TCP)
	load.await("answered by its nameserver", by(byNameserver, 0))
	first := w.run(t)
	connected := w.load(t, shortPatience, Connected)
	load.await("answered by the resolver", by(byTable, 0))
	connected.await("answered by the resolver", by(byTable, 0))
	killed := now()
	first.Kill()
	load.await("answered by its nameserver", by(byNameserver, now()))
	if n := dnsteer.Attached(t, w.place.Cgroup); n != 8 {
		t.Errorf("%d programs are attached, want 8: the datapath outlives its process", n)
	}
	adopted := now()
	second := w.run(t)
	if !strings.Contains(second.Stderr(), "adopted the datapath") {
		t.Errorf("the next run did not adopt the datapath:\n%s", second.Stderr())
	}
	served := now()
	load.await("answered by the next resolver", by(byTable, adopted))
	connected.await("answered by the next resolver", by(byTable, adopted))
	second.Stop()
	load.await("answered by its nameserver", by(byNameserver, now()))
	connected.await("answered by its nameserver", by(byNameserver, now()))
	assertAnswered(t, load.stop(0))
	assertAnswered(t, far.stop(0))
	waited := connected.stop(0)
	assertAnswered(t, endedBefore(waited, killed))
	assertAnswered(t, since(waited, served))
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// TestUnload starts and stops dnsteer under load, from sockets that are older than
// it, and with queries under way. No query is lost, no socket is stranded, nothing is
// left.
func TestUnload(t *testing.T) {
	w := newWorld(t)
	load := w.load(t, patience, Unconnected, PerQuery, Connected, TCP)
	far := w.farLoad(t, Unconnected, PerQuery, Connected, TCP)
	load.await("answered by its nameserver", by(byNameserver, 0))
	for range 2 {
		service := w.run(t)
		load.await("answered by the resolver", by(byTable, now()))
		far.awaitMany("answered", 5, by(byNameserver, now()))
		service.Stop()
		dnsteer.AssertGone(t, w.place, w.bpffs)
		load.await("answered by its nameserver", by(byNameserver, now()))
		far.awaitMany("answered", 5, by(byNameserver, now()))
	}
	assertAnswered(t, load.stop(0))
	assertAnswered(t, far.stop(0))
}
