// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"sync/atomic"
	"time"
)

// source is where an answer came from.
type source uint8

const (
	fromForward source = iota // the zero value of a Response: an upstream's answer
	fromTable
	fromCache
	fromStale   // the cache, because the upstream failed
	fromFailure // no answer: we say why
	sourceCount
)

// String is the source in metrics and in the query log.
func (s source) String() string {
	return [sourceCount]string{"forward", "table", "cache", "stale", "failure"}[s]
}

const (
	// rcodeCount are the rcodes that have a name, up to BADCOOKIE, and one for all others.
	rcodeCount = 24 + 1
	// counterSets sets are enough that loops on different processors seldom share one.
	counterSets = 8
)

// counters counts for some of the loops: each has one that is almost its own, so that
// counting costs no waiting for another processor. The sum of all is what people see.
type counters struct {
	queries   [2][sourceCount][rcodeCount]atomic.Uint64 // by UDP or TCP
	durations [sourceCount]histogram
	hits      atomic.Uint64 // of the cache, on the wire path
	saved     atomic.Uint64
	_         [64]byte // the next one's line of the processor's cache
}

// share is how many queries of one scope were answered, by source.
type share [sourceCount]atomic.Uint64

// Answered is how many queries of a scope were answered, by where the answer came from, as
// in the label "source" of the metrics.
type Answered struct {
	Forward uint64 `json:"forward"`
	Table   uint64 `json:"table"`
	Cache   uint64 `json:"cache"`
	Stale   uint64 `json:"stale"`
	Failure uint64 `json:"failure"`
}

// Answered counts from when the scope was made.
func (sc *Scope) Answered() Answered {
	return Answered{
		Forward: sc.answered[fromForward].Load(), Table: sc.answered[fromTable].Load(), Cache: sc.answered[fromCache].Load(),
		Stale: sc.answered[fromStale].Load(), Failure: sc.answered[fromFailure].Load(),
	}
}

func protocolIndex(tcp bool) int {
	if tcp {
		return 1
	}
	return 0
}

// count counts a query that was answered.
func (t *counters) count(tcp bool, from source, rcode int) {
	t.queries[protocolIndex(tcp)][from][min(rcode, rcodeCount-1)].Add(1)
}

// bounds of the histograms. Answers of our own take some microseconds, those of
// upstreams as long as the network, and five seconds are what a client waits.
var bounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
}

// histogram counts durations.
type histogram struct {
	within [len(bounds) + 1]atomic.Uint64 // and more than any of the bounds before
	nanos  atomic.Uint64
}

// observe notes n times the same duration.
func (h *histogram) observe(n int, took time.Duration) {
	took = max(took, 0)
	i := 0
	for i < len(bounds) && took > bounds[i] {
		i++
	}
	h.within[i].Add(uint64(n))
	h.nanos.Add(uint64(n) * uint64(took))
}

// moments is histograms added up.
type moments struct {
	count   uint64
	seconds float64
	buckets map[float64]uint64 // cumulative, by upper bound
}

func sum(histograms ...*histogram) moments {
	m := moments{buckets: make(map[float64]uint64, len(bounds))}
	for _, h := range histograms {
		// Read before the counts: a mean of a moment may be low, never absurd.
		m.seconds += time.Duration(h.nanos.Load()).Seconds()
	}
	for i := range len(bounds) + 1 {
		for _, h := range histograms {
			m.count += h.within[i].Load()
		}
		if i < len(bounds) {
			m.buckets[bounds[i].Seconds()] = m.count
		}
	}
	return m
}
