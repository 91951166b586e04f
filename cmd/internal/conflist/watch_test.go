// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// report is what Watch said, and when, from its start.
type report struct {
	At      time.Duration
	Changed []string // base names
	Err     error
}

// watch runs Watch in the time of the test, and returns what it says.
func watch(t *testing.T, n Node) (said func() []report) {
	t.Helper()
	start := time.Now()
	var mu sync.Mutex
	var reports []report
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.Watch(ctx, func(changed []string, err error) {
			var names []string
			for _, path := range changed {
				names = append(names, filepath.Base(path))
			}
			mu.Lock()
			defer mu.Unlock()
			reports = append(reports, report{time.Since(start), names, err})
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return func() []report {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(reports)
	}
}

func wait(d time.Duration) { <-time.After(d) } // of the bubble: takes no time

// The network's plugin comes late, rewrites its file, and brings another before it.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		said := watch(t, n)
		path := filepath.Join(n.ConfDir, "10-a.conflist")
		if r := said(); len(r) != 1 || !errors.Is(r[0].Err, ErrNone) || !cmp.Equal(r[0].Changed, []string{PluginName}) {
			t.Fatalf("at the start: %+v, want the binary, and ErrNone", r)
		}
		for _, step := range []struct {
			name string
			do   func() error
			want string // the file that is chained afterwards
		}{
			{"half written", func() error { return os.WriteFile(path, []byte(bare[:40]), 0o644) }, ""},
			{"written", func() error { return os.WriteFile(path, []byte(bare), 0o644) }, "10-a.conflist"},
			{"rewritten", func() error { return os.WriteFile(path, []byte(bare), 0o644) }, "10-a.conflist"},
			{"another first", func() error { return os.WriteFile(filepath.Join(n.ConfDir, "05-b.conflist"), []byte(bare), 0o644) }, "05-b.conflist"},
			{"binary removed", func() error { return n.RemoveBinary() }, PluginName},
			{"directory made anew", func() error {
				return errors.Join(os.RemoveAll(n.ConfDir), os.Mkdir(n.ConfDir, 0o755), os.WriteFile(path, []byte(bare), 0o644))
			}, "10-a.conflist"},
		} {
			before := len(said())
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			wait(10 * time.Second)
			r := said()[before:]
			if len(r) != 1 {
				t.Fatalf("%s: %d reports: %+v", step.name, len(r), r)
			}
			if step.want == "" && !errors.Is(r[0].Err, ErrInvalid) || step.want != "" && !cmp.Equal(r[0].Changed, []string{step.want}) {
				t.Errorf("%s: %+v", step.name, r[0])
			}
			wait(time.Hour)
			if r := said()[before:]; len(r) != 1 {
				t.Fatalf("%s: it goes on: %+v", step.name, r)
			}
		}
	})
}

// Against one that undoes each repair at once, repairs become rare, and quick again
// when that one has given up.
func TestWatchFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, map[string]string{"10-a.conflist": bare})
		said := watch(t, n)
		path := filepath.Join(n.ConfDir, "10-a.conflist")
		for range 3600 {
			wait(time.Second)
			if read(t, path) != bare {
				write(t, path, bare)
			}
		}
		if repairs := len(said()); repairs < 50 || repairs > 80 {
			t.Errorf("%d repairs in an hour, want about one a minute", repairs)
		}
		wait(time.Hour)
		if got := read(t, path); got != chained {
			t.Fatalf("at last: %s", got)
		}
		for range 2 { // the first of them still waits
			write(t, path, bare)
			wait(10 * time.Minute)
		}
		before := len(said())
		write(t, path, bare)
		wait(2 * time.Second)
		if after := len(said()); after != before+1 {
			t.Errorf("%d repairs within two seconds, want 1", after-before)
		}
	})
}

// What no file shows is tried again.
func TestWatchRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, map[string]string{"10-a.conflist": bare})
		if err := os.WriteFile(n.BinDir, nil, 0o644); err != nil { // where a directory should be
			t.Fatal(err)
		}
		said := watch(t, n)
		if r := said(); len(r) != 1 || r[0].Err == nil {
			t.Fatalf("at the start: %+v", r)
		}
		wait(time.Hour)
		if r := said(); len(r) != 1 {
			t.Fatalf("the same error again: %+v", r[1:])
		}
		if err := os.Remove(n.BinDir); err != nil {
			t.Fatal(err)
		}
		wait(retryInterval + pollInterval)
		if r := said(); len(r) != 2 || r[1].Err != nil || len(r[1].Changed) != 2 {
			t.Errorf("then: %+v", r[1:])
		}
	})
}
