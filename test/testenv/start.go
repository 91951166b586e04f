// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os/exec"
	"testing"
	"time"
)

// waitDelay bounds Wait when a grandchild keeps an output pipe open.
const waitDelay = 2 * time.Second

// start starts cmd, and kills and reaps it when the test ends. For a process
// that the test has waited for, that does nothing.
func start(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = waitDelay
	}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", cmd, err)
	}
	tb.Cleanup(func() {
		// Both report a process that is gone already; nothing is left to do then.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}
