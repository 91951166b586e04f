// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whoever writes between our reading and our writing wins.
func TestReplaceChanged(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(path string) error
		want map[string]string
	}{
		{"in place", func(path string) error { return os.WriteFile(path, []byte(list2), 0o644) }, map[string]string{"a": list2}},
		{"half", func(path string) error { return os.Truncate(path, 10) }, map[string]string{"a": bare[:10]}},
		{"by rename", func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte(list2), 0o644), os.Rename(path+".new", path))
		}, map[string]string{"a": list2}},
		{"by rename of the same text", func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte(bare), 0o644), os.Rename(path+".new", path))
		}, map[string]string{"a": bare}},
		{"removed", os.Remove, map[string]string{}},
	} {
		for _, way := range []string{"exchange", "rename"} {
			t.Run(tc.name+"/"+way, func(t *testing.T) {
				n := newNode(t, map[string]string{"a": bare})
				f, err := readFile(filepath.Join(n.ConfDir, "a"))
				if err != nil {
					t.Fatal(err)
				}
				if err := tc.do(f.path); err != nil {
					t.Fatal(err)
				}
				if way == "exchange" {
					err = f.replace([]byte(chained))
				} else {
					aside, asideErr := writeAside(f.path, []byte(chained), f.info)
					if asideErr != nil {
						t.Fatal(asideErr)
					}
					err = f.rename(aside)
					_ = os.Remove(aside)
				}
				if !errors.Is(err, errChanged) {
					t.Errorf("got %v, want errChanged", err)
				}
				if diff := cmp.Diff(tc.want, files(t, n)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
	}
}

// A network's agent rewrites its configuration while we install: whoever reads sees one
// that is whole, and nothing that the other wrote is lost.
func TestInstallWhileRewritten(t *testing.T) {
	n := newNode(t, map[string]string{"10-a.conflist": bare})
	path := filepath.Join(n.ConfDir, "10-a.conflist")
	const rewrites = 300
	var all sync.WaitGroup
	done := make(chan struct{})
	all.Go(func() {
		defer close(done)
		for i := range rewrites {
			text := strings.Replace(bare, "pods", fmt.Sprintf("pods-%d", i), 1)
			if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o644), os.Rename(path+".new", path)); err != nil {
				t.Error(err)
			}
		}
	})
	all.Go(func() {
		for {
			if f, err := readFile(path); err != nil {
				t.Errorf("a runtime reads: %v", err)
			} else if _, err := scan(f.text); err != nil {
				t.Errorf("a runtime reads %q: %v", f.text, err)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	installs := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		changed, err := n.Install()
		if err != nil && !errors.Is(err, ErrBusy) {
			t.Errorf("install: %v", err)
		}
		installs += len(changed)
	}
	all.Wait()
	install(t, n)
	want := strings.Replace(chained, "pods", fmt.Sprintf("pods-%d", rewrites-1), 1)
	if diff := cmp.Diff(map[string]string{"10-a.conflist": want}, files(t, n)); diff != "" {
		t.Errorf("after %d installs (-want +got):\n%s", installs, diff)
	}
}
