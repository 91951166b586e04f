// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

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

// among reports whether a name was chosen; nothing chosen is all.
func among(chosen []string, name string) bool {
	return len(chosen) == 0 || slices.Contains(chosen, name)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.stderr, "bench-resolver: "+format+"\n", args...)
}
