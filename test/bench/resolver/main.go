// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// pacedRate is queries a second where latency is measured.
const pacedRate = 5000

func main() {
	testenv.Roles{roleDnsteer: dnsteerMain, roleEcho: echoMain, roleUpstream: upstreamMain, roleFlood: floodMain, rolePace: paceMain}.Dispatch()
	b := bench{stdout: os.Stdout, stderr: os.Stderr}
	flag.IntVar(&b.rounds, "rounds", 3, "`number` of turns that each server takes in each row")
	flag.IntVar(&b.seconds, "seconds", 1, "`length` of a turn in seconds")
	flag.BoolVar(&b.json, "json", false, "print JSON")
	only := flag.String("only", "", "comma-separated `servers` to measure (default: all that are installed)")
	some := flag.String("rows", "", "comma-separated `rows` to measure, \"p99\" for the latency (default: all)")
	flag.StringVar(&b.before, before, "", "`path` of another build of this program, whose resolver takes part too")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Usage: go run ./test/bench/resolver [flags]\n\nMeasures the resolver beside other DNS servers; needs root and two processors.\n\nFlags:\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	if *some != "" {
		b.rows = strings.Split(*some, ",")
	}
	if flag.NArg() > 0 || b.rounds < 1 || b.seconds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	os.Exit(b.run())
}

// bench is one run of the command.
type bench struct {
	stdout, stderr  io.Writer
	rounds, seconds int
	only, rows      []string // all if empty
	before          string
	json            bool
}

func (b *bench) run() int {
	if os.Geteuid() != 0 || runtime.NumCPU() < 2 {
		fmt.Fprintln(b.stderr, "bench-resolver: root and two processors are needed: namespaces, cgroups, and one processor for the server alone")
		return 1
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, unix.SIGINT, unix.SIGTERM)
	var rep report
	stopped := false
	err := testenv.Run("bench-resolver", b.stderr, func(tb testing.TB) {
		stop := func() bool {
			select {
			case <-interrupted:
				stopped = true
			default:
			}
			return stopped
		}
		rep = b.measure(tb, stop)
	})
	switch {
	case err != nil:
		fmt.Fprintf(b.stderr, "bench-resolver: %v\n", err)
		return 1
	case stopped:
		fmt.Fprintln(b.stderr, "bench-resolver: interrupted")
		return 130
	case b.json:
		if err := rep.json(b.stdout); err != nil {
			return 1
		}
	default:
		rep.print(b.stdout)
	}
	return 0
}

// measure starts all servers and lets them take turns.
func (b *bench) measure(tb testing.TB, stop func() bool) report {
	ns := testenv.NewNetNS(tb)
	up := netip.MustParseAddrPort("127.0.0.1:5300")
	pin(tb, loadCPU, func() { ns.Start(testenv.Command(tb, roleUpstream, up.String())) })
	rep := report{Rounds: b.rounds}
	var running []*server
	for i, s := range servers(b.before) {
		if !among(b.only, s.name) {
			continue
		}
		if !s.find() {
			rep.Missing = append(rep.Missing, fmt.Sprintf("%s, which is not installed (%s)", s.name, s.debian))
			continue
		}
		b.say("start %s", s.name)
		s.start(tb, ns, netip.AddrPortFrom(up.Addr(), up.Port()+1+uint16(i)), up)
		running = append(running, s)
		rep.Results = append(rep.Results, newResult(s))
	}
	l := &load{ns: ns, seconds: b.seconds}
	begin := time.Now()
	for round := range b.rounds {
		b.say("round %d of %d, %s so far", round+1, b.rounds, time.Since(begin).Round(time.Second))
		b.round(tb, l, running, rep.Results, stop)
		if stop() {
			return rep
		}
	}
	for _, r := range rep.Results {
		r.settle()
	}
	rep.Goals = goals(rep.Results)
	return rep
}

// round gives each server a turn in each row, and one at the fixed rate.
func (b *bench) round(tb testing.TB, l *load, running []*server, results []*result, stop func() bool) {
	for _, row := range rows() {
		for i, s := range running {
			if among(b.rows, string(row)) && slices.Contains(s.rows, row) && !stop() {
				results[i].samples[row] = append(results[i].samples[row], l.ask(tb, s, row))
			}
		}
	}
	for i, s := range running {
		if among(b.rows, "p99") && !stop() {
			results[i].paced = append(results[i].paced, l.pace(tb, s, pacedRate))
		}
	}
}

// among reports whether a name was chosen; nothing chosen is all.
func among(chosen []string, name string) bool {
	return len(chosen) == 0 || slices.Contains(chosen, name)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.stderr, "bench-resolver: "+format+"\n", args...)
}
