// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// load asks servers.
type load struct {
	ns      *testenv.NetNS
	seconds int
}

// sample is one turn of one server.
type sample struct {
	cpu  time.Duration // of the server, a query
	rate float64       // queries a second
	lost int
}

// ask makes one turn: as many queries as the server can answer. In each round other
// names of a large table are asked for, the same of all servers.
func (l *load) ask(tb testing.TB, s *server, r row, round int) sample {
	tb.Helper()
	network, what := "udp", []string{tableName}
	switch r {
	case rowTableTCP:
		network = "tcp"
	case rowCache:
		what = []string{cachedName}
	case rowForward:
		what = []string{"*-" + strconv.FormatInt(time.Now().UnixNano(), 36) + "." + forwardZone}
	case rowThousand, rowMillion:
		what = []string{strconv.Itoa(int(s.table)), strconv.Itoa(round)}
	}
	before := s.cpu(tb)
	var got tally
	l.run(tb, l.seconds, &got, roleFlood, append([]string{s.addr.String(), network, strconv.Itoa(l.seconds)}, what...)...)
	took := s.cpu(tb) - before
	if got.Answered == 0 || got.Wrong > got.Answered/100 {
		tb.Fatalf("ask %s for %s: %d answers, %d of them wrong, %d lost", s.name, r, got.Answered, got.Wrong, got.Lost)
	}
	return sample{cpu: took / time.Duration(got.Answered), rate: float64(got.Answered) / got.Took.Seconds(), lost: got.Lost}
}

// pace asks servers in turn at a fixed rate, each for as long as a turn, and returns what
// clients saw of each and what it cost there. For as long as that takes, servers and load go
// before every other process: latency is what a busy machine changes most. Little is taken
// from the others, since a server is idle nearly all of the time.
func (l *load) pace(tb testing.TB, servers []*server, rate int) ([]latency, []sample) {
	tb.Helper()
	args := []string{strconv.Itoa(rate), strconv.Itoa(rate * l.seconds / paceTurn)}
	costs := make([]sample, len(servers))
	for i, s := range servers {
		s.schedule(tb, unix.SCHED_RR)
		defer s.schedule(tb, unix.SCHED_NORMAL)
		args = append(args, s.addr.String())
		costs[i] = sample{cpu: -s.cpu(tb), rate: float64(rate)}
	}
	var seen []latency
	l.run(tb, l.seconds*len(servers), &seen, rolePace, args...)
	for i, s := range servers {
		if len(seen[i].Took) == 0 {
			tb.Fatalf("ask %s at %d queries a second: no answers", s.name, rate)
		}
		costs[i].lost = seen[i].Lost
		costs[i].cpu = (costs[i].cpu + s.cpu(tb)) / time.Duration(len(seen[i].Took))
	}
	return seen, costs
}

// run runs a load on its processor and reads what it prints.
func (l *load) run(tb testing.TB, seconds int, into any, role string, args ...string) {
	tb.Helper()
	var out bytes.Buffer
	cmd := testenv.Command(tb, role, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	pin(tb, loadCPU, func() { l.ns.Start(cmd) })
	err := wait(cmd, time.Duration(seconds)*time.Second+loadGrace)
	if err == nil {
		err = json.Unmarshal(out.Bytes(), into)
	}
	if err != nil {
		tb.Fatalf("run %s: %v\n%s", role, err, out.Bytes())
	}
}

// loadGrace is how late a load may end on a busy machine.
const loadGrace = time.Minute

func wait(cmd *exec.Cmd, most time.Duration) error {
	timer := time.AfterFunc(most, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	return cmd.Wait()
}
