// SPDX-License-Identifier: Apache-2.0

package names

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/resolver"
)

// config writes a file of sources.
func config(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sources.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What is not understood is refused, with the file and what was wanted.
func TestReadConfigRefuses(t *testing.T) {
	kubernetes := func(text string) string { return "sources:\n- kubernetes: {" + text + "}\n" }
	east := "clusters: [{name: east, kubeconfig: f, zones: [east.example.org]}]"
	for _, tc := range []struct{ name, text, want string }{
		{"not YAML", "sources: [", "did not find expected node content"},
		{"unknown key", "source: []", `unknown field "source"`},
		{"unknown key of a cluster", kubernetes("clusters: [{name: a, zone: b}]"), `unknown field "zone"`},
		{"key twice", "sources: []\nsources: []", `key "sources" already set in map`},
		{"no kind", "sources: [{}]", "source 1: it is of no kind: want kubernetes or mcs"},
		{"no clusters", kubernetes(""), "source 1: kubernetes has no clusters"},
		{"merge", kubernetes("merge: both, " + east), `source 1: merge is "both", not local-first, union or remote-only`},
		{"age", kubernetes("maxAge: 1d, " + east), `source 1: maxAge is "1d", not a duration such as 24h`},
		{"no name", kubernetes("clusters: [{kubeconfig: f, zones: [a]}]"), "source 1: a cluster has no name"},
		{"twice", kubernetes("clusters: [{name: a, local: true}, {name: a, local: true}]"), "source 1: cluster a is there twice"},
		{"no zones", kubernetes("clusters: [{name: east, kubeconfig: f}]"), "source 1: cluster east has no zones: want the domains of its names, such as east.example.org"},
		{"no way to reach it", kubernetes("clusters: [{name: east, zones: [a]}]"), "source 1: cluster east has no kubeconfig, and is not the local one"},
		{"secrets of nowhere", kubernetes("secrets: {cluster: west}, " + east), `source 1: secrets are in cluster "west", which is none of the clusters`},
		{"secrets without namespace", kubernetes("secrets: {cluster: east}, " + east), "source 1: secrets have no namespace: istio-system, usually"},
		{"secrets without zones", kubernetes("secrets: {cluster: east, namespace: a}, " + east), `source 1: secrets have no zones: cluster.local, or "{cluster}.example.org"`},
		{"two kinds", "sources: [{kubernetes: {}, mcs: {}}]", "source 1: it is of two kinds: want kubernetes or mcs"},
		{"mcs without a cluster", "sources: [{mcs: {}}]", "source 1: a cluster has no name"},
		{"second source", kubernetes(east) + "- {}\n", "source 2: it is of no kind: want kubernetes or mcs"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := config(t, tc.text)
			_, err := ReadConfig(path)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "read sources: "+path+": ") {
				t.Errorf("error: %v", err)
			}
		})
	}
	if _, err := ReadConfig(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "read sources: open ") {
		t.Errorf("no file: %v", err)
	}
}

// A kubeconfig that is not there, or a ServiceAccount, is said at once.
func TestOpenRefuses(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for text, want := range map[string]string{
		"sources: [{kubernetes: {clusters: [{name: east, kubeconfig: /nonexistent, zones: [a]}]}}]": "open source 1: cluster east: stat /nonexistent",
		"sources: [{kubernetes: {clusters: [{name: here, local: true}]}}]":                          "open source 1: cluster here: unable to load in-cluster configuration",
	} {
		c, err := ReadConfig(config(t, text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(c, resolver.NewNames(), slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", text, err)
		}
	}
}
