// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
)

// Run runs f outside of "go test", as a test runs: f has a testing.TB, its
// cleanups run when it ends, messages go to out. It returns an error if f failed
// or left something behind. A program that demonstrates what the tests check
// uses it, after Roles.Dispatch.
func Run(name string, out io.Writer, f func(tb testing.TB)) error {
	code := guard(out, func() int {
		tb := &standalone{name: name, out: out}
		tb.run(f)
		if tb.Failed() {
			return 1
		}
		return 0
	})
	if code != 0 {
		return fmt.Errorf("run %s: it failed", name)
	}
	return nil
}

// standalone is a testing.TB outside of the testing package. Methods that it
// does not override (Skip, Setenv) panic: the embedded interface is nil.
type standalone struct {
	testing.TB
	name string
	out  io.Writer

	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

// run calls f on a goroutine that Fatal may end, then the cleanups, last first.
func (s *standalone) run(f func(tb testing.TB)) {
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.await(func() { f(s) })
	s.cancel()
	for {
		s.mu.Lock()
		last := len(s.cleanups) - 1
		if last < 0 {
			s.mu.Unlock()
			return
		}
		cleanup := s.cleanups[last]
		s.cleanups = s.cleanups[:last]
		s.mu.Unlock()
		s.await(cleanup)
	}
}

func (s *standalone) await(f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	<-done
}

func (s *standalone) Helper()                  {}
func (s *standalone) Name() string             { return s.name }
func (s *standalone) Context() context.Context { return s.ctx }

func (s *standalone) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

func (s *standalone) TempDir() string {
	dir, err := os.MkdirTemp("", "run-")
	if err != nil {
		s.Fatalf("make temporary directory: %v", err)
	}
	s.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.Errorf("remove temporary directory: %v", err)
		}
	})
	return dir
}

func (s *standalone) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *standalone) Fail() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = true
}

func (s *standalone) FailNow()                  { s.Fail(); runtime.Goexit() }
func (s *standalone) Log(args ...any)           { fmt.Fprintln(s.out, args...) }
func (s *standalone) Logf(f string, a ...any)   { fmt.Fprintf(s.out, f+"\n", a...) }
func (s *standalone) Error(args ...any)         { s.Log(args...); s.Fail() }
func (s *standalone) Errorf(f string, a ...any) { s.Logf(f, a...); s.Fail() }
func (s *standalone) Fatal(args ...any)         { s.Log(args...); s.FailNow() }
func (s *standalone) Fatalf(f string, a ...any) { s.Logf(f, a...); s.FailNow() }
