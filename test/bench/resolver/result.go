// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
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
	r.Growth = ratio(r.samples[rowMillion], r.samples[rowThousand])
	r.P50, r.P99 = r.paced.quantile(50), r.paced.quantile(99)
}

// addPaced adds the latency of one round.
func (r *result) addPaced(round latency) {
	r.paced.add(round)
	r.P99s = append(r.P99s, round.quantile(99))
}

// lower is in how many rounds one server's p99 was below another's.
func lower(ours, theirs *result) (n, rounds int) {
	for i := range min(len(ours.P99s), len(theirs.P99s)) {
		rounds++
		if ours.P99s[i] < theirs.P99s[i] {
			n++
		}
	}
	return n, rounds
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

func (s sample) micros() float64     { return micros(s.cpu) }
func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// goal is a ratio to reach.
type goal struct {
	Row   row     `json:"row"`
	To    string  `json:"to"`    // a server, or another row of ours
	Ratio float64 `json:"ratio"` // median of the rounds; 0 if one of the two is missing
	Most  float64 `json:"at_most"`
}

// goals are the ratios of ours to others.
func goals(results []*result) []goal {
	list := []goal{
		{Row: rowTableUDP, To: "echo", Most: 1.15}, {Row: rowTableTCP, To: "echo", Most: 1.15},
		{Row: rowCache, To: "unbound", Most: 0.9}, {Row: rowForward, To: "dnsdist", Most: 0.85},
		{Row: rowMillion, To: string(rowThousand), Most: 1.15},
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
		if theirs := find(results, g.To); theirs != nil {
			list[i].Ratio = ratio(ours.samples[g.Row], theirs.samples[g.Row])
		} else if slices.Contains(rows(), row(g.To)) {
			list[i].Ratio = ratio(ours.samples[g.Row], ours.samples[row(g.To)])
		}
	}
	return list
}

// ratio is the median of the ratios of each round; 0 if one of the two is missing.
func ratio(a, b []sample) float64 {
	var ratios []float64
	for round := range min(len(a), len(b)) {
		ratios = append(ratios, a[round].micros()/b[round].micros())
	}
	return median(ratios, func(f float64) float64 { return f })
}

// bestP99 is the peer with the least tail; the echo and builds of ours are no peers.
func bestP99(results []*result) *result {
	peers := slices.DeleteFunc(slices.Clone(results), func(r *result) bool { return r.Server == "dnsteer" || r.Server == before || r.Server == "echo" })
	if len(peers) == 0 {
		return nil
	}
	return slices.MinFunc(peers, func(a, b *result) int { return cmp.Compare(a.P99, b.P99) })
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
