// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// roleLoad asks until its standard input ends.
const roleLoad = "failure-load"

const (
	// pace is the pause of one client between two queries: a few hundred queries a
	// second each, which two processors carry besides the tests.
	pace = 3 * time.Millisecond
	// patience is how long a client of libc waits for an answer.
	patience = 5 * time.Second
	// awaitTimeout bounds the wait for answers that take milliseconds, or as long as a
	// client waits for one that is lost.
	awaitTimeout = 20 * time.Second
)

// plan is what the load does: every shape asks every server for Name.
type plan struct {
	Name    string
	Servers []netip.AddrPort
	Shapes  []Shape
	Timeout time.Duration
}

// loadMain is the role: a plan.
func loadMain(args []string) int {
	var p plan
	if err := json.Unmarshal([]byte(args[0]), &p); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		return 2
	}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	reports := make(chan query, 1024)
	var clients sync.WaitGroup
	for _, server := range p.Servers {
		for _, shape := range p.Shapes {
			clients.Go(func() {
				p.run(&client{shape: shape, server: server}, reports, stop)
			})
		}
	}
	go func() {
		clients.Wait()
		close(reports)
	}()
	out := json.NewEncoder(os.Stdout)
	for q := range reports {
		if err := out.Encode(q); err != nil {
			fmt.Fprintln(os.Stderr, "load:", err)
			return 1
		}
	}
	return 0
}

// run asks until stop, and once after it: what the end of a test leaves behind must
// still work.
func (p plan) run(c *client, reports chan<- query, stop <-chan struct{}) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-tick.C:
		case <-stop:
			last = true
		}
		q := query{Shape: c.shape, Server: c.server, Start: now()}
		var err error
		if q.Answer, err = c.ask(p.Name, p.Timeout); err != nil {
			q.Err = describe(err)
		}
		q.End = now()
		reports <- q
	}
}

// load is a process that asks.
type load struct {
	tb    testing.TB
	plan  plan
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{} // closed when it has reported all

	mu      sync.Mutex
	queries []query
}

// startLoad starts one; place puts it where it belongs.
func startLoad(tb testing.TB, p plan, place func(*exec.Cmd)) *load {
	tb.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		tb.Fatalf("write plan: %v", err)
	}
	l := &load{tb: tb, plan: p, cmd: testenv.Command(tb, roleLoad, string(text)), ended: make(chan struct{})}
	l.cmd.Stderr = os.Stderr
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		tb.Fatalf("make pipe: %v", err)
	}
	stdout, err := l.cmd.StdoutPipe()
	if err != nil {
		tb.Fatalf("make pipe: %v", err)
	}
	place(l.cmd)
	tb.Cleanup(func() { l.stdin.Close(); <-l.ended })
	go l.collect(stdout)
	return l
}

func (l *load) collect(r io.Reader) {
	defer close(l.ended)
	for in := json.NewDecoder(r); ; {
		var q query
		if err := in.Decode(&q); err != nil {
			return // at the end; one that died is found by stop
		}
		l.mu.Lock()
		l.queries = append(l.queries, q)
		l.mu.Unlock()
	}
}

// soFar returns the queries that have ended.
func (l *load) soFar() []query {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.queries)
}

// await returns when every client has a query that matches.
func (l *load) await(what string, match func(query) bool) {
	l.tb.Helper()
	l.awaitMany(what, 1, match)
}

// awaitMany returns when every client has so many queries that match.
func (l *load) awaitMany(what string, many int, match func(query) bool) {
	l.tb.Helper()
	testenv.Eventually(l.tb, awaitTimeout, func() error {
		queries := l.soFar()
		for _, server := range l.plan.Servers {
			for _, shape := range l.plan.Shapes {
				n := count(queries, func(q query) bool { return q.Shape == shape && q.Server == server && match(q) })
				if n < many {
					return fmt.Errorf("%s to %s: %d of %d queries were %s", shape, server, n, many, what)
				}
			}
		}
		return nil
	})
}

// stop ends the load, which exits with that code, and returns all queries.
func (l *load) stop(code int) []query {
	l.tb.Helper()
	l.stdin.Close()
	<-l.ended
	_ = l.cmd.Wait() // its code is looked at below
	if got := l.cmd.ProcessState.ExitCode(); got != code {
		l.tb.Errorf("load: %v, want exit code %d", l.cmd.ProcessState, code)
	}
	return l.soFar()
}
