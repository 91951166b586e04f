// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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

// testFunction is a test with its doc comment; in the first group is its name.
var testFunction = regexp.MustCompile(`(?ms)(?:^//[^\n]*\n)*^func ((?:Test|Fuzz)\w+)\(.*?^}`)

// sources are the tests by their names, those of the programs around the resolver too.
func sources(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, root := range []string{".", "../cmd", "../test"} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			for _, m := range testFunction.FindAllSubmatch(data, -1) {
				found[string(m[1])] += string(m[0])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// Every test that README.md names exists.
func TestReadmeNamesTests(t *testing.T) {
	have := sources(t)
	want := names("`(?:go test -fuzz )?((?:Test|Fuzz)\\w+)`", readme(t))
	if len(want) < 40 {
		t.Fatalf("README.md names %d tests only: %v", len(want), want)
	}
	for _, name := range want {
		if have[name] == "" {
			t.Errorf("README.md names %s, which is no test", name)
		}
	}
}

// Every behaviour has a test, and for each RFC that is its source one of its tests names
// that RFC.
func TestReadmeNamesRFCs(t *testing.T) {
	have, rows := sources(t), 0
	for _, row := range regexp.MustCompile(`(?m)^\| (.*) \| (.*) \| (.*?) ?\| (.*) \|$`).FindAllStringSubmatch(string(readme(t)), -1) {
		if strings.HasPrefix(row[1], "`dnsteer_") || row[1] == "behaviour" || row[1] == "metric" {
			continue
		}
		rows++
		var tests strings.Builder
		for _, name := range names("`((?:Test|Fuzz)\\w+)`", []byte(row[4])) {
			tests.WriteString(have[name])
		}
		if tests.Len() == 0 {
			t.Errorf("%s: no test", row[1])
		}
		for _, rfc := range names(`\b(\d{4})\b`, []byte(row[3])) {
			if !strings.Contains(tests.String(), rfc) {
				t.Errorf("%s: none of %s names RFC %s", row[1], row[4], rfc)
			}
		}
	}
	if rows < 80 {
		t.Errorf("README.md has %d behaviours only", rows)
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
