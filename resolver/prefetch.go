// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"time"
)

const (
	// prefetchPart of its time is left when an answer that is asked for is fetched
	// again: a name in use then never waits for its upstream, which is asked a tenth
	// more often at most.
	prefetchPart = 10
	// prefetchLeast is the time from which on that is worth it, in seconds: what lives
	// shorter is meant to be asked for.
	prefetchLeast = 10
)

// isDue reports an answer that is to be fetched again by whoever asks for it now.
func (k *kept) isDue(now time.Time) bool {
	if k.seconds < prefetchLeast || k.kind != positive || k.fetched.Load() {
		return false
	}
	lifetime := time.Duration(k.seconds) * time.Second
	return now.Sub(k.stored) >= lifetime-lifetime/prefetchPart
}

// prefetch fetches an answer again if it is due, for those who ask next. If that fails
// the answer stays for as long as it may, and nobody is told.
func (s *lookupStage) prefetch(ctx context.Context, req *Request, k *kept, now time.Time) {
	if !k.isDue(now) || !k.fetched.CompareAndSwap(false, true) {
		return
	}
	s.prefetches.Add(1)
	go func() { _, _ = s.next.Exchange(ctx, req) }()
}
