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
	document, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(document), tableBegin) {
		t.Error("README.md has no place for the table")
	}
	if diff := cmp.Diff(insertTable(string(document), table(results)), string(document)); diff != "" {
		t.Errorf("README.md (-want +got), run make matrix:\n%s", diff)
	}
}
