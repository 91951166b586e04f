// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// rowLatency is chosen as rows are, but is no kind of query.
	rowLatency = "p99"
	// pacedRate is queries a second where latency is measured.
	pacedRate = 5000
)

// rounds lets servers take turns.
type rounds struct {
	*bench
	tb   testing.TB
	stop func() bool
	load *load
	up   netip.AddrPort
	last netip.AddrPort // of the server that was started last
	rep  report
}

// measure starts the servers and lets them take turns: those with one name first, and
// those with many when that is over, so that their memory and their start are a burden to
// nobody.
func (b *bench) measure(tb testing.TB, stop func() bool) report {
	ns := testenv.NewNetNS(tb)
	up := netip.MustParseAddrPort("127.0.0.1:5300")
	pin(tb, loadCPU, func() { ns.Start(testenv.Command(tb, roleUpstream, up.String())) })
	r := &rounds{bench: b, tb: tb, stop: stop, load: &load{ns: ns, seconds: b.seconds}, up: up, last: up, rep: report{Rounds: b.rounds}}
	var installed []*server
	for _, s := range servers(b.before) {
		if !among(b.only, s.name) {
			continue
		}
		if !s.find() {
			r.miss("%s, which is not installed (%s)", s.name, s.debian)
			continue
		}
		installed = append(installed, s)
		r.rep.Results = append(r.rep.Results, &result{Server: s.name, samples: make(map[row][]sample)})
	}
	r.small(installed)
	r.large(installed)
	for _, res := range r.rep.Results {
		res.settle()
	}
	r.rep.Goals = goals(r.rep.Results)
	return r.rep
}

// small gives each server with one name a turn in each row, and at the fixed rate many
// short ones.
func (r *rounds) small(installed []*server) {
	latency := among(r.rows, rowLatency)
	var running []*server
	for _, s := range installed {
		if s = s.with(one, r.rows); len(s.rows) == 0 && !latency {
			continue
		}
		r.say("start %s", s.name)
		if err := r.start(s); err != nil {
			r.tb.Fatalf("start %s: %v", s.name, err)
		}
		running = append(running, s)
		r.result(s).Resident = mebi(s.resident())
	}
	r.repeat(running, func(round int) {
		for _, row := range rows() {
			for _, s := range running {
				if slices.Contains(s.rows, row) {
					r.ask(s, row, round)
				}
			}
		}
		if latency && !r.stop() {
			seen, costs := r.load.pace(r.tb, running, pacedRate)
			for i, s := range running {
				res := r.result(s)
				res.addPaced(seen[i])
				res.samples[rowAlone] = append(res.samples[rowAlone], costs[i])
			}
		}
	})
}

// large does the same for the rows of many names. A server's two turns follow each other,
// since it is with itself that it is compared. One that cannot is left out.
func (r *rounds) large(installed []*server) {
	var running []*server
	for _, s := range installed {
		for _, names := range []table{thousand, million} {
			s := s.with(names, r.rows)
			if len(s.rows) == 0 || r.stop() {
				continue
			}
			r.say("start %s with %d names, for at most %s", s.name, names, longTimeout)
			err := r.start(s)
			cpu := s.cpu(r.tb)
			if err != nil {
				r.miss("%s with %d names, after %.1f s of CPU: %v", s.name, names, cpu.Seconds(), err)
				continue
			}
			r.say("%s has them after %.1f s of CPU, in %.0f MiB", s.name, cpu.Seconds(), mebi(s.resident()))
			running = append(running, s)
		}
	}
	r.repeat(running, func(round int) {
		for _, s := range running {
			for _, row := range s.rows {
				r.ask(s, row, round)
			}
		}
	})
}

// start gives the server the next port.
func (r *rounds) start(s *server) error {
	r.last = netip.AddrPortFrom(r.last.Addr(), r.last.Port()+1)
	return s.start(r.tb, r.load.ns, r.last, r.up)
}

func (r *rounds) repeat(running []*server, turns func(round int)) {
	begin := time.Now()
	for round := range r.bench.rounds {
		if len(running) == 0 || r.stop() {
			return
		}
		r.say("round %d of %d, %s so far", round+1, r.bench.rounds, time.Since(begin).Round(time.Second))
		turns(round)
	}
}

func (r *rounds) ask(s *server, row row, round int) {
	if !r.stop() {
		r.result(s).samples[row] = append(r.result(s).samples[row], r.load.ask(r.tb, s, row, round))
	}
}

func (r *rounds) result(s *server) *result { return find(r.rep.Results, s.name) }

func (r *rounds) miss(format string, args ...any) {
	r.rep.Missing = append(r.rep.Missing, fmt.Sprintf(format, args...))
}

func mebi(octets int) float64 { return float64(octets) / (1 << 20) }
