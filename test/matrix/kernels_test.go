// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"
)

// newTestLab is a lab for tests, with the cache of make matrix.
func newTestLab(t *testing.T) *lab {
	t.Helper()
	opts, err := parse([]string{"-level", "quick"})
	if err != nil {
		t.Fatal(err)
	}
	opts.root, opts.results = "../..", ""
	opts.timeout = 30 * time.Minute // less than that of make test: the guest says which test hangs
	l, err := openLab(t.Context(), opts, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The oldest kernel that dnsteer runs on, one that many have, and the newest. The others are
// for make matrix, and so is what the quick level leaves out.
func TestKernels(t *testing.T) {
	l := newTestLab(t)
	names, err := l.choose("5.10,6.1,newest")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 3 {
		t.Errorf("only %v are to be had", names)
	}
	// All at once, also on fewer processors: the last would have one for itself while
	// another idles. To a guest a slow machine looks like any.
	l.opts.parallel = len(names)
	results, err := l.tryAll(t.Context(), names, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Outcome != Pass {
			t.Error(r)
		}
	}
}
