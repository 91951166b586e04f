// SPDX-License-Identifier: Apache-2.0

package names

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that README.md names exists, and its YAML is understood.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, pattern := range []string{"*_test.go", "kube/*_test.go", "kube/live/*_test.go", "istio/*_test.go", "../../../resolver/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(data)
		}
	}
	for _, m := range regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllSubmatch(readme, -1) {
		if !strings.Contains(source.String(), "func "+string(m[1])+"(") {
			t.Errorf("README.md names %s, which is no test", m[1])
		}
	}
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(readme)
	if m == nil {
		t.Fatal("README.md has no YAML")
	}
	if _, err := ReadConfig(config(t, string(m[1]))); err != nil {
		t.Error(err)
	}
}
