// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func readme(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// names returns what a pattern finds in data, sorted, each once.
func names(pattern string, data []byte) []string {
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(data, -1) {
		found = append(found, string(m[1]))
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// Every test that README.md names exists.
func TestReadmeNamesTests(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	below, err := filepath.Glob("internal/*/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, below...)
	var source []byte
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, data...)
	}
	have := names(`(?m)^func ((?:Test|Fuzz)\w+)\(`, source)
	want := names("`(?:go test -fuzz )?((?:Test|Fuzz)\\w+)`", readme(t))
	if len(want) < 40 {
		t.Fatalf("README.md names %d tests only: %v", len(want), want)
	}
	for _, name := range want {
		if !slices.Contains(have, name) {
			t.Errorf("README.md names %s, which is no test", name)
		}
	}
}

// The YAML of README.md is a table.
func TestReadmeYAML(t *testing.T) {
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(readme(t))
	if m == nil {
		t.Fatal("README.md has no YAML")
	}
	table := table(t, string(m[1]))
	want := []string{"*.apps.example.org.", "_http._tcp.example.org.", "reviews.bookinfo.cluster2.example.org.", "web.example.org.", "www.example.org."}
	var got []string
	for _, e := range given(table) {
		got = append(got, e.name.String())
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}
