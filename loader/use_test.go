// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"sync"
	"testing"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// Of several users the last one may unload, and who comes meanwhile starts anew.
func TestUse(t *testing.T) {
	w := newWorld(t)
	if used, err := InUse(w.opts); used || err != nil {
		t.Errorf("in use before it is loaded: %v, %v", used, err)
	}
	first := w.load(t)
	if used, err := InUse(w.opts); used || err != nil {
		t.Errorf("in use by nobody: %v, %v", used, err)
	}
	if err := first.Use(); err != nil {
		t.Fatal(err)
	}
	second, err := Open(w.opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Use(); err != nil {
		t.Fatal(err)
	}
	if used, err := InUse(w.opts); !used || err != nil {
		t.Errorf("in use by two: %v, %v", used, err)
	}
	if second.LastUser() {
		t.Error("the second is the last, though the first is there")
	}
	second.Close()
	if !first.LastUser() {
		t.Fatal("the first is not the last, though the second has ended")
	}
	third, err := Open(w.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	began := make(chan error)
	go func() { began <- third.Use() }()
	if err := first.Unload(nil); err != nil {
		t.Error(err)
	}
	first.Close()
	if err := <-began; !errors.Is(err, ErrNotLoaded) {
		t.Errorf("use what was unloaded meanwhile: %v, want ErrNotLoaded", err)
	}
}

// Who acquires a datapath while others unload it and load it gets one that is attached, and
// that nobody else takes for unused.
func TestAcquireMeanwhile(t *testing.T) {
	for _, stage := range []string{"loaded already", "upgraded", "adopted"} {
		for _, tc := range []struct {
			name    string
			adopted bool
			change  func(t *testing.T, opts Options)
		}{
			{"unloaded", false, func(t *testing.T, opts Options) { mustUnload(t, opts) }},
			{"about to be unloaded", false, func(t *testing.T, opts Options) {
				d, err := Open(opts)
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				if err := d.beginUnload(); err != nil {
					t.Fatal(err)
				}
			}},
			{"unloaded and loaded again", true, func(t *testing.T, opts Options) {
				mustUnload(t, opts)
				mustLoad(t, opts, seams{})
			}},
		} {
			if stage == "adopted" && tc.name == "about to be unloaded" {
				continue // whoever does that without force waits for users
			}
			t.Run(stage+"/"+tc.name, func(t *testing.T) {
				opts := pinned(t)
				mustLoad(t, opts, seams{})
				changed := false
				d, adopted, err := acquireWith(opts, seams{reached: func(at string) {
					if at == stage && !changed {
						changed = true
						tc.change(t, opts)
					}
				}})
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				if !changed || adopted != tc.adopted {
					t.Errorf("adopted: %v, want %v", adopted, tc.adopted)
				}
				if err := d.checkAttached(); err != nil {
					t.Errorf("it is not what is loaded: %v", err)
				}
				if used, err := InUse(opts); !used || err != nil {
					t.Errorf("in use: %v, %v", used, err)
				}
				if !d.LastUser() {
					t.Error("it is not the last user")
				}
				mustUnload(t, opts)
				wantClean(t, opts)
			})
		}
	}
	_, _, err := Acquire(Options{Cgroup: testenv.NewCgroup(t).Path})
	wantErr(t, "acquire without pins", err, ErrNotBPFFS)
}

func mustUnload(t *testing.T, opts Options) {
	t.Helper()
	if err := Unload(opts, 0); err != nil {
		t.Fatal(err)
	}
}

// Whose datapath was unloaded by force is not the last user of one that was loaded since.
func TestLastUserOfAnother(t *testing.T) {
	opts := pinned(t)
	first, _, err := Acquire(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	mustUnload(t, opts)
	second, adopted, err := Acquire(opts)
	if err != nil || adopted {
		t.Fatalf("acquire the next: %v, %v", adopted, err)
	}
	defer second.Close()
	if first.LastUser() {
		t.Error("the user of the one before may unload it")
	}
	if !second.LastUser() {
		t.Error("its user may not")
	}
	wantErr(t, "unload what is another's", first.Unload(nil), ErrNotLoaded)
	if d, err := Open(opts); err != nil {
		t.Errorf("the other's: %v", err)
	} else {
		d.Close()
	}
	mustUnload(t, opts)
	wantClean(t, opts)
}

// Any number may look at once whether somebody uses a datapath, which they do not.
func TestLookWhoUses(t *testing.T) {
	opts := pinned(t)
	mustLoad(t, opts, seams{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				if used, err := InUse(opts); used || err != nil {
					t.Errorf("in use: %v, %v", used, err)
					return
				}
			}
		})
	}
	all.Wait()
	mustUnload(t, opts)
	wantClean(t, opts)
}
