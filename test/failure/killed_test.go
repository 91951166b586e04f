// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// everyShape has sockets that pass a hook with each query, and those that do not.
var everyShape = []Shape{Unconnected, PerQuery, Connected, TCP}

// killing is from when on a resolver may have been dead, until when it was, sockets
// included.
type killing struct{ before, dead time.Duration }

// supervised has a load and a resolver of "dnsteer run" or "dnsteer exec" that is started
// again when it ends.
type supervised struct {
	*world
	load   *load
	worker func() int
	end    func() // takes the load's queries with it
}

func forSupervised(t *testing.T, test func(t *testing.T, s *supervised)) {
	t.Run("run", func(t *testing.T) {
		w := newWorld(t)
		service := w.run(t)
		test(t, &supervised{world: w, load: w.load(t, patience, everyShape...), worker: service.Worker, end: service.Stop})
		dnsteer.AssertGone(t, w.place, w.bpffs)
	})
	t.Run("exec", func(t *testing.T) {
		w := newWorld(t)
		load := w.execLoad(t, everyShape, patience)
		worker := func() int { return dnsteer.Worker(load.cmd.Process.Pid) }
		test(t, &supervised{world: w, load: load, worker: worker, end: func() {}})
		dnsteer.AssertGone(t, w.place, "")
	})
}

// TestResolverKilled kills the resolver again and again, with no chance to say so. A query
// that it had in hand may be lost. Every other is answered: by its nameserver while no
// resolver lives, or, where a connected socket asks past all hooks, by the next one.
func TestResolverKilled(t *testing.T) {
	forSupervised(t, func(t *testing.T, s *supervised) {
		var kills []killing
		s.load.await("answered by the resolver", by(byTable, 0))
		for range 4 {
			var k killing
			k.before, k.dead = kill(t, s.worker())
			kills = append(kills, k)
			s.load.await("answered by the resolver again", by(byTable, k.dead))
			t.Logf("dead %v after the signal, all steered again %v later", k.dead-k.before, now()-k.dead)
		}
		queries := s.load.stop(0)
		s.end()
		assertUndisturbed(t, queries, kills)
	})
}

// TestResolverKilledWithQueue kills a resolver at which queries wait: it is stopped before,
// and has not read them. Their sockets live, so not one is lost.
func TestResolverKilledWithQueue(t *testing.T) {
	forSupervised(t, func(t *testing.T, s *supervised) {
		s.load.await("answered by the resolver", by(byTable, 0))
		paused := s.pauseWithQueue(t)
		_, dead := kill(t, s.worker())
		s.load.await("answered by the resolver again", by(byTable, dead))
		queries := s.load.stop(0)
		s.end()

		assertAnswered(t, since(queries, paused))
		for _, stream := range []bool{false, true} {
			waited := count(queries, func(q query) bool {
				return q.Start < dead && q.End > dead && q.Answer == byTable && (q.Shape == TCP) == stream
			})
			t.Logf("TCP %v: %d queries waited for the next resolver", stream, waited)
			if waited == 0 {
				t.Errorf("TCP %v: no query waited for the next resolver", stream)
			}
		}
	})
}

// TestQueueIsForwarded is the same for a name that is not in the table: the next resolver
// has to know for which nameserver a query was meant that has waited for it.
func TestQueueIsForwarded(t *testing.T) {
	w := newWorld(t)
	service := w.run(t)
	load := w.start(t, plan{Name: otherName, Servers: nameservers, Shapes: everyShape, Timeout: patience})
	s := &supervised{world: w, load: load, worker: service.Worker}
	load.await("answered", by(byNameserver, 0))
	paused := s.pauseWithQueue(t)
	_, dead := kill(t, service.Worker())
	load.awaitMany("answered", 5, by(byNameserver, dead))
	queries := load.stop(0)
	service.Stop()
	assertAnswered(t, since(queries, paused))
}

// pauseWithQueue stops the resolver at a moment when it has not read everything, and
// returns since when. A client that waits for an answer sends nothing, so that may take
// more than one attempt.
func (s *supervised) pauseWithQueue(t *testing.T) (paused time.Duration) {
	t.Helper()
	const attempt = hangLimit / 4
	var resume func()
	testenv.Eventually(t, awaitTimeout, func() error {
		if resume == nil {
			resume = pause(t, s.worker())
			paused = now()
		}
		err := s.queued()
		if err != nil && now()-paused > attempt {
			resume()
			resume = nil
		}
		return err
	})
	return paused
}

// TestResolverDead has nobody there to start the resolver again: every query that passes a
// hook goes to its own nameserver. Others wait, and no call is refused.
func TestResolverDead(t *testing.T) {
	w := newWorld(t)
	service := w.run(t)
	load := w.load(t, shortPatience, Unconnected, PerQuery, TCP)
	connected := w.load(t, shortPatience, Connected)
	load.await("answered by the resolver", by(byTable, 0))
	connected.await("answered by the resolver", by(byTable, 0))
	resume := pause(t, service.PID())
	before, dead := kill(t, service.Worker())
	load.awaitMany("answered by its nameserver", 100, by(byNameserver, dead))
	resumed := now()
	resume()
	load.await("answered by the resolver again", by(byTable, resumed))
	connected.await("answered by the resolver again", by(byTable, resumed))
	queries := load.stop(0)
	waited := connected.stop(0)
	service.Stop()

	assertAnswered(t, endedBefore(queries, before))
	assertAnswered(t, since(queries, dead))
	if n := count(endedBefore(queries, resumed), by(byTable, dead)); n > 0 {
		t.Errorf("%d queries were answered by a resolver that was dead", n)
	}
	assertAnswered(t, endedBefore(waited, before))
	assertAnswered(t, since(waited, resumed))
	assertNotRefused(t, waited)
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// TestResolverDoesNotStart kills a resolver that cannot be started again: connected
// sockets are returned to their nameserver, and steered again when it can.
func TestResolverDoesNotStart(t *testing.T) {
	w := newWorld(t)
	service := w.run(t)
	load := w.load(t, shortPatience, everyShape...)
	load.await("answered by the resolver", by(byTable, 0))
	write(t, w.hosts, "no address\n")
	service.AwaitStderr("keep the old names")
	before, dead := kill(t, service.Worker())
	load.awaitMany("answered by its nameserver", 20, by(byNameserver, dead))
	returned := now()
	load.awaitMany("answered by its nameserver", 20, by(byNameserver, returned))
	w.writeHosts(t, byTable)
	load.await("answered by the resolver again", by(byTable, dead))
	service.AwaitStderr("the resolver is back")
	queries := load.stop(0)
	service.Stop()

	assertAnswered(t, endedBefore(queries, before))
	assertAnswered(t, since(queries, returned))
	for _, q := range since(queries, dead) {
		if q.Shape != Connected && q.Err != "" {
			t.Errorf("%s to %s: %s", q.Shape, q.Server, q.Err)
		}
	}
	for _, q := range queries {
		if q.Shape == Connected {
			assertNotRefused(t, []query{q})
		}
	}
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// assertUndisturbed fails the test for each query that was not answered, but for those
// that a dying resolver may have had in hand. Those may go without answer, or lose their
// connection; no call on a UDP socket fails.
func assertUndisturbed(t *testing.T, queries []query, kills []killing) {
	t.Helper()
	var clear, disturbed []query
	for _, q := range queries {
		inHand := false
		for _, k := range kills {
			inHand = inHand || q.Start < k.dead && q.End > k.before
		}
		switch {
		case !inHand:
			clear = append(clear, q)
		case q.Shape != TCP:
			disturbed = append(disturbed, q)
		}
	}
	assertAnswered(t, clear)
	assertNotRefused(t, disturbed)
	t.Logf("%d UDP queries while it died, %d without answer", len(disturbed), count(disturbed, func(q query) bool { return q.Err != "" }))
}

// assertNotRefused fails the test for each query whose calls met an error. That no answer
// comes is none.
func assertNotRefused(t *testing.T, queries []query) {
	t.Helper()
	for _, q := range queries {
		if q.Err != "" && q.Err != timedOut {
			t.Errorf("%s to %s, %v to %v: %s", q.Shape, q.Server, q.Start, q.End, q.Err)
		}
	}
}

// queued fails until something waits at the resolver's sockets of each family and protocol:
// datagrams, or connections that nobody has accepted.
func (w *world) queued() (err error) {
	w.place.NetNS.Do(func() {
		for _, table := range []string{"udp", "udp6", "tcp", "tcp6"} {
			if err == nil {
				err = queuedIn(table)
			}
		}
	})
	return err
}

func queuedIn(table string) error {
	text, err := os.ReadFile(filepath.Join("/proc/thread-self/net", table))
	if err != nil {
		return err
	}
	port := fmt.Sprintf(":%04X", loader.DefaultPort)
	for line := range strings.Lines(string(text)) {
		// "sl local_address rem_address st tx_queue:rx_queue ...", in hexadecimal
		fields := strings.Fields(line)
		_, waiting, _ := strings.Cut(fields[4], ":")
		if strings.HasSuffix(fields[1], port) && strings.HasSuffix(fields[2], ":0000") && strings.Trim(waiting, "0") != "" {
			return nil
		}
	}
	return fmt.Errorf("%s: nothing waits", table)
}
