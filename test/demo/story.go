// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/test/seed"
)

// way is one way to intercept DNS, in words that need no explanation.
type way struct {
	title       string
	netfilter   bool // needs what the kernel may lack
	interceptor seed.Interceptor
}

func (d *demo) ways() []way {
	return []way{
		{"netfilter REDIRECT, as mesh sidecars do", true, seed.Netfilter()},
		{"the same, in conntrack zones", true, seed.Zones()},
		{"dnsteer, to the same resolver", false, seed.DnsteerMesh(d.binary)},
		{"dnsteer, on top of the netfilter rules", true,
			seed.Both("dnsteer + netfilter, mesh resolver", seed.Netfilter(), seed.DnsteerMesh(d.binary))},
		{"dnsteer, its own resolver, random ports", false, seed.Dnsteer(d.binary)},
	}
}

// row is what came of one way.
type row struct {
	way
	got seed.Result
}

// tell tells the story of package seed in every way that this kernel knows.
func (d *demo) tell() ([]row, error) {
	fmt.Fprintf(d.out, `A pod asks 192.0.2.53 for names of its own cluster, which that nameserver knows, and for
%s, which only a resolver inside the pod knows. So every query of
the pod has to go to the resolver, and every query of the resolver to the nameserver.
%d of %d queries leave from a source port that the other of the two has just used:

`, strings.TrimSuffix(seed.TableName, "."), 2*seed.Pairs, seed.Queries)
	missing, err := d.missing()
	if err != nil {
		return nil, err
	}
	if missing != "" {
		fmt.Fprintf(d.out, "  left out: netfilter, because this kernel lacks %s\n", missing)
	}
	var rows []row
	for _, w := range d.ways() {
		if w.netfilter && missing != "" {
			continue
		}
		r := row{way: w}
		fmt.Fprintf(d.out, "  %-42s", w.title)
		err := d.world(w.title, func(tb testing.TB) { r.got = seed.Tell(tb, w.interceptor) })
		if err != nil {
			return nil, err
		}
		fmt.Fprintln(d.out, "done")
		rows = append(rows, r)
	}
	return rows, nil
}

func (d *demo) missing() (string, error) {
	var missing string
	err := d.world("probe netfilter", func(tb testing.TB) { missing = d.lacks(tb) })
	return missing, err
}
