// SPDX-License-Identifier: Apache-2.0

package main

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestDieAtOnce is about signals of which Go's runtime does not die: it ends with their code,
// and does not wait for a death that never comes.
func TestDieAtOnce(t *testing.T) {
	for _, sig := range []syscall.Signal{unix.SIGPIPE, unix.SIGALRM, unix.SIGUSR1, unix.SIGXCPU, unix.SIGSTKFLT, unix.SIGSEGV} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			if code, want := killedBy(sig).die(), exitCode(128+int(sig)); code != want {
				t.Errorf("%v: exit code %d, want %d", sig, code, want)
			}
			if waited := time.Since(begun); waited > 0 {
				t.Errorf("%v: it waits for %v", sig, waited)
			}
		})
	}
}
