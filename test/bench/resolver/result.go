// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"slices"
	"time"
)

// result is what one server did in all rounds.
type result struct {
	Server   string          `json:"server"`
	CPU      map[row]float64 `json:"cpu_us_per_query"`
	Rate     map[row]float64 `json:"queries_per_second"`
	Lost     map[row]int     `json:"lost"`
	P50      float64         `json:"p50_us"`
	P99      float64         `json:"p99_us"`
	P99s     []float64       `json:"p99_us_rounds"`       // of each round alone
	Resident float64         `json:"resident_mib"`        // with one name, before the first query; 0 if not measured
	Growth   float64         `json:"million_of_thousand"` // CPU of a query; 0 if not measured

	samples map[row][]sample
	paced   latency
}

// settle takes the medians of the rounds; of latency, the quantiles of all answers.
func (r *result) settle() {
	r.CPU, r.Rate, r.Lost = make(map[row]float64), make(map[row]float64), make(map[row]int)
	for row, samples := range r.samples {
		r.CPU[row] = median(samples, sample.micros)
		r.Rate[row] = median(samples, func(s sample) float64 { return s.rate })
		for _, s := range samples {
			r.Lost[row] += s.lost
		}
	}
	r.Growth = compare(r.micros(rowMillion), r.micros(rowThousand)).Ratio
	r.P50, r.P99 = r.paced.quantile(50), r.paced.quantile(99)
}

// addPaced adds the latency of one round.
func (r *result) addPaced(round latency) {
	r.paced.add(round)
	r.P99s = append(r.P99s, round.quantile(99))
}

func (l *latency) add(more latency) {
	l.Took, l.Lost = append(l.Took, more.Took...), l.Lost+more.Lost
}

// quantile is what so many of a hundred answers took at most, in microseconds; 0 if there
// were none.
func (l *latency) quantile(percent int) float64 {
	if len(l.Took) == 0 {
		return 0
	}
	slices.Sort(l.Took)
	return micros(l.Took[(len(l.Took)-1)*percent/100])
}

// micros is what a query of a row cost in each round.
func (r *result) micros(row row) (each []float64) {
	for _, s := range r.samples[row] {
		each = append(each, s.micros())
	}
	return each
}

func (s sample) micros() float64     { return micros(s.cpu) }
func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// goal is a ratio to reach.
type goal struct {
	Row  row     `json:"row"`
	To   string  `json:"to"` // a server, or another row of ours
	Most float64 `json:"at_most"`
	ratio
}

// ratio is what rounds say of two servers; all 0 if one of the two is missing.
type ratio struct {
	Ratio float64 `json:"ratio"` // median of the ratios of each round
	Low   float64 `json:"low"`   // the median of more rounds is between these, 19 times of 20;
	High  float64 `json:"high"`  // of fewer than six rounds they are the extremes
}

// goals are the ratios of ours to others.
func goals(results []*result) []goal {
	list := []goal{
		{Row: rowTableUDP, To: "echo", Most: 1.15}, {Row: rowTableTCP, To: "echo", Most: 1.15},
		{Row: rowCache, To: "unbound", Most: 0.9}, {Row: rowForward, To: "dnsdist", Most: 0.85},
		{Row: rowMillion, To: string(rowThousand), Most: 1.15},
	}
	if peer := bestP99(results); peer != nil {
		list = append(list, goal{Row: rowLatency, To: peer.Server, Most: 1})
	}
	if find(results, before) != nil {
		for _, row := range rows() {
			list = append(list, goal{Row: row, To: before, Most: 1})
		}
	}
	ours := find(results, "dnsteer")
	for i, g := range list {
		if ours == nil {
			continue
		}
		theirs := find(results, g.To)
		switch {
		case g.Row == rowLatency:
			list[i].ratio = compare(ours.P99s, theirs.P99s)
		case theirs != nil:
			list[i].ratio = compare(ours.micros(g.Row), theirs.micros(g.Row))
		case slices.Contains(rows(), row(g.To)):
			list[i].ratio = compare(ours.micros(g.Row), ours.micros(row(g.To)))
		}
	}
	return list
}

// compare compares what was measured in the same rounds.
func compare(a, b []float64) ratio {
	var ratios []float64
	for round := range min(len(a), len(b)) {
		ratios = append(ratios, a[round]/b[round])
	}
	n := len(ratios)
	if n == 0 {
		return ratio{}
	}
	slices.Sort(ratios)
	// How many of n are below their median has a binomial distribution.
	first := max(0, int(float64(n)/2-0.98*math.Sqrt(float64(n))))
	return ratio{Ratio: median(ratios, func(f float64) float64 { return f }), Low: ratios[first], High: ratios[n-1-first]}
}

// bestP99 is the peer to which ours compares worst; the echo and builds of ours are no
// peers. Nil if nobody was measured.
func bestP99(results []*result) (best *result) {
	ours, worst := find(results, "dnsteer"), 0.0
	for _, r := range results {
		if ours == nil || r == ours || r.Server == before || r.Server == "echo" {
			continue
		}
		if c := compare(ours.P99s, r.P99s); c.Ratio > worst {
			best, worst = r, c.Ratio
		}
	}
	return best
}

func find(results []*result, name string) *result {
	i := slices.IndexFunc(results, func(r *result) bool { return r.Server == name })
	if i < 0 {
		return nil
	}
	return results[i]
}

func median[T any](values []T, of func(T) float64) float64 {
	if len(values) == 0 {
		return 0
	}
	var sorted []float64
	for _, v := range values {
		sorted = append(sorted, of(v))
	}
	slices.Sort(sorted)
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
