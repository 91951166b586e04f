// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"sync"
	"testing"
)

// Shared is what the first test of a run that needs it makes, for all of them.
type Shared[T any] struct {
	mu    sync.Mutex
	made  bool
	value T
}

// Get returns it. A test that fails while it makes it leaves that to the next. Files of
// it belong into dir, which lives as long as the run.
func (s *Shared[T]) Get(tb testing.TB, produce func(dir string) T) T {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.made {
		dir, err := os.MkdirTemp("", "shared-")
		if err != nil {
			tb.Fatalf("make directory: %v", err)
		}
		s.value = produce(dir)
		s.made = true
	}
	return s.value
}
