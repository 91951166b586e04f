// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The table in the documents is that of the committed results.
func TestTableIsWritten(t *testing.T) {
	results, err := readResults("results")
	if err != nil {
		t.Fatal(err)
	}
	if len(results) < enough {
		t.Errorf("results of %d kernels, want at least %d: run make matrix", len(results), enough)
	}
	for path, marker := range map[string]string{"README.md": tableBegin, "../../README.md": summaryBegin} {
		document, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(document), marker) {
			t.Errorf("%s has no place for the table", path)
		}
		if diff := cmp.Diff(insertTables(string(document), results), string(document)); diff != "" {
			t.Errorf("%s (-want +got), run make matrix:\n%s", path, diff)
		}
	}
}
