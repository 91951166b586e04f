// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
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
	opts.timeout = 4 * time.Minute
	l, err := openLab(t.Context(), opts, testWriter{t})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// testWriter prints to the test's log.
type testWriter struct{ t *testing.T }

var _ io.Writer = testWriter{}

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.t.Logf("%s", p)
	return len(p), nil
}

// One kernel that many have, and the newest. The others are for make matrix, 5.10 with
// what fails there among them, and so is what the quick level leaves out.
func TestKernels(t *testing.T) {
	l := newTestLab(t)
	minors, err := l.choose("6.1,newest")
	if err != nil {
		t.Fatal(err)
	}
	for _, minor := range minors {
		t.Run(minor, func(t *testing.T) {
			l.out = testWriter{t}
			r, err := l.try(t.Context(), minor)
			if err != nil {
				t.Fatal(err)
			}
			if r.Outcome != Pass {
				t.Errorf("%s", r)
			}
		})
	}
}
