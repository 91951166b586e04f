// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// The range that is told has the median of many rounds in it, about as often as it says.
func TestCompare(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, rounds := range []int{6, 10, 25, 40} {
		const runs = 2000
		within := 0
		ours, theirs := make([]float64, rounds), make([]float64, rounds)
		for range runs {
			for i := range rounds {
				noise := 1 + r.ExpFloat64() // of the machine, in both alike
				ours[i], theirs[i] = 1.1*noise*(1+0.1*r.NormFloat64()), noise
			}
			c := compare(ours, theirs)
			if c.Low > c.Ratio || c.High < c.Ratio {
				t.Fatalf("%.3f is not in %.3f to %.3f", c.Ratio, c.Low, c.High)
			}
			if c.Low <= 1.1 && 1.1 <= c.High {
				within++
			}
		}
		if share := float64(within) / runs; share < 0.94 || share > 0.99 {
			t.Errorf("%d rounds: the ratio is in the range %.3f of the time", rounds, share)
		}
	}
}

// The peer of which the p99 goal speaks is the one to which ours compares worst, round by
// round: one round that is lost to everybody decides nothing.
func TestBestPeer(t *testing.T) {
	of := func(name string, each ...float64) *result { return &result{Server: name, P99s: each} }
	all := []*result{of("dnsteer", 10, 11, 900), of("echo", 1, 1, 1), of("slow", 20, 21, 22), of("quick", 9, 10, 950)}
	if got := fmt.Sprint(bestP99(all).Server, " ", len(goals(all))); got != "quick 6" {
		t.Errorf("the best peer, and goals: %s", got)
	}
	if got := bestP99(all[:2]); got != nil {
		t.Errorf("the best of no peers is %s", got.Server)
	}
}
