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
	opts.timeout = 15 * time.Minute
	l, err := openLab(t.Context(), opts, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The oldest kernel that dnsteer runs on, one that many have, and the newest, as many at
// once as there are processors. The others are for make matrix, and so is what the quick
// level leaves out.
func TestKernels(t *testing.T) {
	l := newTestLab(t)
	names, err := l.choose("5.10,6.1,newest")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 3 {
		t.Errorf("only %v are to be had", names)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := l.try(t.Context(), name, t.Output())
			if err != nil {
				t.Fatal(err)
			}
			if r.Outcome != Pass {
				t.Errorf("%s", r)
			}
		})
	}
}
