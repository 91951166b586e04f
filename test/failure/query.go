// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// query is one question, as the client saw it. Times are CLOCK_MONOTONIC, which all
// processes share.
type query struct {
	Shape      Shape
	Server     netip.AddrPort
	Start, End time.Duration
	Answer     netip.Addr
	Err        string // empty if it was answered, by the server that was asked
}

// now is the clock of queries.
func now() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return time.Duration(ts.Nano())
}

// by matches queries that somebody answered and that started at since or later.
func by(addr netip.Addr, since time.Duration) func(query) bool {
	return func(q query) bool { return q.Err == "" && q.Answer == addr && q.Start >= since }
}

// since returns the queries that started at that time or later.
func since(queries []query, start time.Duration) []query {
	var out []query
	for _, q := range queries {
		if q.Start >= start {
			out = append(out, q)
		}
	}
	return out
}

// endedBefore returns the queries that had ended by then.
func endedBefore(queries []query, end time.Duration) []query {
	var out []query
	for _, q := range queries {
		if q.End < end {
			out = append(out, q)
		}
	}
	return out
}

// count returns how many queries match.
func count(queries []query, match func(query) bool) int {
	n := 0
	for _, q := range queries {
		if match(q) {
			n++
		}
	}
	return n
}

// firstEnd returns when the first query that matches had its answer.
func firstEnd(queries []query, match func(query) bool) time.Duration {
	var first time.Duration
	for _, q := range queries {
		if match(q) && (first == 0 || q.End < first) {
			first = q.End
		}
	}
	return first
}
