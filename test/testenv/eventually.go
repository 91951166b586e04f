// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"testing"
	"time"
)

// pollInterval is short beside what tests wait for (a process that starts, a
// kernel work queue) and long beside the cost of asking.
const pollInterval = 2 * time.Millisecond

// longestInterval bounds how long the next question waits after an expensive one.
const longestInterval = 500 * time.Millisecond

// Eventually calls condition until it returns nil, and fails the test with its
// last error if that does not happen before timeout. It is for state that
// nobody announces; where there is a channel or a descriptor to wait on, wait on
// that. The condition runs on the calling goroutine, so it may call tb.Fatal. One that
// takes long is asked less often: it leaves the machine at least half of the time to what
// it waits for.
func Eventually(tb testing.TB, timeout time.Duration, condition func() error) {
	tb.Helper()
	if err := poll(timeout, condition); err != nil {
		tb.Fatal(err)
	}
}

// poll is Eventually without a test.
func poll(timeout time.Duration, condition func() error) error {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for {
		began := time.Now()
		err := condition()
		if err == nil {
			return nil
		}
		select {
		case <-deadline.C:
			return fmt.Errorf("wait %v: %w", timeout, err)
		case <-time.After(min(max(time.Since(began), pollInterval), longestInterval)):
		}
	}
}
