// SPDX-License-Identifier: Apache-2.0

package names

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsteer/dnsteer/resolver"
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

// README.md lists the metrics of this package.
func TestReadmeMetrics(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ReadConfig(config(t, "sources: [{istio: {address: '127.0.0.1:1', plaintext: true}}]"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(c, resolver.NewNames(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var served []string
	for _, f := range families {
		m := f.GetMetric()[0]
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		served = append(served, fmt.Sprintf("| `%s` | %s | %s | %s |", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp()))
	}
	listed := regexp.MustCompile("(?m)^\\| `dnsteer_\\w+` \\|.*$").FindAllString(string(readme), -1)
	if diff := cmp.Diff(listed, served); diff != "" {
		t.Errorf("(-README.md +served):\n%s", diff)
	}
}
