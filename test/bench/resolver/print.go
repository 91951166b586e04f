// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// report is everything, for programs.
type report struct {
	Results []*result `json:"results"`
	Goals   []goal    `json:"goals"`
	Missing []string  `json:"missing"`
	Rounds  int       `json:"rounds"`
}

func (r report) json(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// printGrowth says what size does to each: to the one that only echoes nothing, unless the
// load itself costs more.
func (r report) printGrowth(w io.Writer) {
	var each []string
	for _, res := range r.Results {
		if res.Growth > 0 {
			each = append(each, fmt.Sprintf("%s %.2f", res.Server, res.Growth))
		}
	}
	if len(each) > 0 {
		fmt.Fprintf(w, "%s of %s: %s\n", rowMillion, rowThousand, strings.Join(each, ", "))
	}
}

func (r report) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "CPU µs of the server a query (thousand queries/s), median of %d rounds\n", r.Rounds)
	fmt.Fprint(t, "\t")
	columns := append(rows(), rowAlone)
	for _, row := range columns {
		fmt.Fprintf(t, "%s\t", row)
	}
	fmt.Fprint(t, "p50 µs\tp99 µs\tMiB\t\n")
	for _, res := range r.Results {
		fmt.Fprintf(t, "%s\t", res.Server)
		for _, row := range columns {
			cell := ""
			if cpu, ok := res.CPU[row]; ok {
				cell = fmt.Sprintf("%.1f (%.0f)", cpu, res.Rate[row]/1000)
			}
			fmt.Fprintf(t, "%s\t", cell)
		}
		for _, figure := range []float64{res.P50, res.P99, res.Resident} {
			cell := ""
			if figure > 0 {
				cell = fmt.Sprintf("%.0f", figure)
			}
			fmt.Fprintf(t, "%s\t", cell)
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush()
	fmt.Fprintln(w)
	r.printGrowth(w)
	for _, g := range r.Goals {
		if g.Ratio == 0 {
			continue // not measured, or not the other
		}
		fmt.Fprintf(w, "%s: %.2f (%.2f to %.2f) of %s (goal: at most %.2f)\n", g.Row, g.Ratio, g.Low, g.High, g.To, g.Most)
	}
	for _, res := range r.Results {
		lost := 0
		for _, n := range res.Lost {
			lost += n
		}
		if lost > 0 {
			fmt.Fprintf(w, "%s left %d queries without an answer\n", res.Server, lost)
		}
	}
	for _, m := range r.Missing {
		fmt.Fprintf(w, "not measured: %s\n", m)
	}
}
