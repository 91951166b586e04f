// SPDX-License-Identifier: Apache-2.0

package oldkernel

import (
	"errors"
	"os/exec"
	"runtime"
	"testing"
)

// Do calls f, on a goroutine and a thread of its own, and returns when f has. The
// processes that f starts are under the mask for as long as the test lasts. It ends the
// test if f does, or if the mask cannot be had.
func (m Mask) Do(tb testing.TB, f func()) {
	tb.Helper()
	done, finished := make(chan struct{}), false
	go func() {
		defer close(done)
		release, err := m.Enter()
		if err != nil {
			tb.Error(err)
			return
		}
		// Cleanups run last first: what f starts is ended before.
		tb.Cleanup(func() {
			if err := release(); err != nil {
				tb.Error(err)
			}
		})
		f()
		finished = true
	}()
	<-done
	if !finished {
		tb.FailNow()
	}
}

// Start starts cmd under the mask. Call release when it has ended. For programs; a test
// uses Do.
func (m Mask) Start(cmd *exec.Cmd) (release func() error, err error) {
	started := make(chan struct{})
	go func() {
		defer close(started)
		if release, err = m.Enter(); err != nil {
			return
		}
		if failed := cmd.Start(); failed != nil {
			err = errors.Join(failed, release())
		}
	}()
	<-started
	return release, err
}

// Enter puts the calling goroutine under the mask, for good: it is locked to its
// thread, which ends with it. So will be the processes that it starts. After release,
// they have no bpf(2) at all; call it when they are gone. The error is the supervisor's.
func (m Mask) Enter() (release func() error, err error) {
	runtime.LockOSThread()
	listener, err := m.install()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	s, err := m.supervise(listener)
	if err != nil {
		return nil, err
	}
	return s.close, nil
}
