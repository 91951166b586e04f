// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
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

// TestHungResolverIsReplaced stops the resolver's process for good: nobody is without an
// answer meanwhile, and when it has been silent for long enough, the next one serves.
// Status tells why.
func TestHungResolverIsReplaced(t *testing.T) {
	w := newWorld(t)
	service := w.run(t, "--hung-after", "5s")
	load := w.load(t, shortPatience, Unconnected, PerQuery, TCP)
	load.await("answered by the resolver", by(byTable, 0))
	if got := w.restarts(t); got.Count != 0 || got.Reason != "" {
		t.Errorf("restarts at first: %+v", got)
	}
	pause(t, service.Worker())
	hung := now() + hangLimit
	load.await("answered by its nameserver", by(byNameserver, hung))
	service.AwaitStderr("the resolver has not answered for 5s; starting it again")
	load.await("answered by the next resolver", by(byTable, now()))
	queries := load.stop(0)
	if got := w.restarts(t); got.Count == 0 || got.Reason != "the resolver has not answered for 5s" || got.Last.IsZero() {
		t.Errorf("restarts: %+v", got)
	}
	if text := w.status(t); !strings.Contains(words(text), " ago: the resolver has not answered for 5s ") {
		t.Errorf("status:\n%s", text)
	}
	_, _ = kill(t, service.Worker())
	service.AwaitStderr("the resolver has ended (signal: killed); starting it again")
	testenv.Eventually(t, awaitTimeout, func() error {
		if got := w.restarts(t); got.Count < 2 || got.Reason != "the resolver has ended (signal: killed)" {
			return fmt.Errorf("restarts: %+v", got)
		}
		return nil
	})
	service.Stop()
	assertAnswered(t, since(queries, hung))
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// status is what 'dnsteer status' prints.
func (w *world) status(t *testing.T, flags ...string) string {
	t.Helper()
	cmd := w.place.Command(t, append([]string{"status", "--bpffs", w.bpffs}, flags...)...)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	w.place.Start(t, cmd)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	return out.String()
}

// restarts are those that status tells of.
func (w *world) restarts(t *testing.T) (r struct {
	Count  int
	Last   time.Time
	Reason string
}) {
	t.Helper()
	var states []struct{ Restarts *json.RawMessage }
	text := w.status(t, "--json")
	if err := json.Unmarshal([]byte(text), &states); err != nil || len(states) != 1 || states[0].Restarts == nil {
		t.Fatalf("status has no restarts: %v\n%s", err, text)
	}
	if err := json.Unmarshal(*states[0].Restarts, &r); err != nil {
		t.Fatal(err)
	}
	return r
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
	second.AwaitStderr("adopted the datapath")
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

// TestRunWithoutReader ends dnsteer run when nobody reads what it prints any more, as Ctrl-C
// does it with "dnsteer run 2>&1 | tee log": it cleans up all the same.
func TestRunWithoutReader(t *testing.T) {
	w := newWorld(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	cmd := w.place.Command(t, "run", "--cgroup", w.place.Cgroup.Path, "--bpffs", w.bpffs)
	cmd.Stdout, cmd.Stderr = writer, writer
	w.place.Start(t, cmd)
	writer.Close()
	if line, err := bufio.NewReader(reader).ReadString('\n'); err != nil || !strings.Contains(line, "steering ") {
		t.Errorf("it says %q, %v", line, err)
	}
	reader.Close()
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	dnsteer.AssertGone(t, w.place, w.bpffs)
}
