// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	istio := func(text string) string { return "sources:\n- istio: {" + text + "}\n" }
	east := "clusters: [{name: east, kubeconfig: f, zones: [east.example.org]}]"
	for _, tc := range []struct{ name, text, want string }{
		{"not YAML", "sources: [", "did not find expected node content"},
		{"unknown key", "source: []", `unknown field "source"`},
		{"unknown key of a cluster", kubernetes("clusters: [{name: a, zone: b}]"), `unknown field "zone"`},
		{"key twice", "sources: []\nsources: []", `key "sources" already set in map`},
		{"no kind", "sources: [{}]", "source 1: it is of no kind: want kubernetes, mcs or istio"},
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
		{"authority of no zone", kubernetes("clusters: [{name: east, kubeconfig: f, zones: [a.org], authority: [b.org]}]"), "source 1: cluster east: authority b.org is none of its zones"},
		{"authority of the local cluster", kubernetes("clusters: [{name: here, local: true, authority: [cluster.local]}]"), "source 1: cluster here: authority cluster.local has a zone of the local cluster, whose own DNS has more names in it"},
		{"authority of a zone that the local cluster has too", kubernetes("clusters: [{name: here, local: true}, {name: east, kubeconfig: f, zones: [Cluster.Local.], authority: [Cluster.Local.]}]"), "source 1: cluster east: authority Cluster.Local. has a zone of the local cluster"},
		{"authority above the local cluster", kubernetes("clusters: [{name: here, local: true}, {name: east, kubeconfig: f, zones: [local], authority: [local]}]"), "source 1: cluster east: authority local has a zone of the local cluster"},
		{"authority of secrets", kubernetes("secrets: {cluster: east, namespace: a, zones: [a.org], authority: [b.org]}, " + east), "source 1: clusters of secrets: authority b.org is none of its zones"},
		{"two kinds", "sources: [{kubernetes: {}, mcs: {}}]", "source 1: it is of two kinds: want kubernetes, mcs or istio"},
		{"mcs without a cluster", "sources: [{mcs: {}}]", "source 1: a cluster has no name"},
		{"istio without an address", istio(""), `source 1: address is "", not a host with a port such as istiod.istio-system.svc:15012`},
		{"istio without a port", istio("address: istiod"), `source 1: address is "istiod", not a host with a port`},
		{"istio without trust", istio("address: 'istiod:15012'"), "source 1: there is no rootCert: want the file of the ConfigMap istio-ca-root-cert, or plaintext"},
		{"token in the clear", istio("address: 'istiod:15010', plaintext: true, token: f"), "source 1: plaintext does not go with certificates, nor with a token"},
		{"certificate without its key", istio("address: 'istiod:15012', rootCert: f, cert: f"), "source 1: cert and key go together"},
		{"family", istio("address: 'istiod:15010', plaintext: true, families: [v4]"), `source 1: family "v4" is none: want ipv4 or ipv6`},
		{"age of istio", istio("address: 'istiod:15010', plaintext: true, maxAge: 1d"), `source 1: maxAge is "1d", not a duration such as 24h`},
		{"unknown key of istio", istio("adress: 'istiod:15010'"), `unknown field "adress"`},
		{"second source", kubernetes(east) + "- {}\n", "source 2: it is of no kind: want kubernetes, mcs or istio"},
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

// A kubeconfig that is not there or says nothing, or no ServiceAccount, is said at once.
func TestOpenRefuses(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	empty := config(t, "")
	for text, want := range map[string]string{
		"sources: [{kubernetes: {clusters: [{name: east, kubeconfig: /nonexistent, zones: [a]}]}}]":  "open source 1: cluster east: open /nonexistent: no such file",
		"sources: [{kubernetes: {clusters: [{name: east, kubeconfig: " + empty + ", zones: [a]}]}}]": "open source 1: cluster east: read kubeconfig " + empty + ": it has no cluster",
		"sources: [{kubernetes: {clusters: [{name: here, local: true}]}}]":                           "open source 1: cluster here: unable to load in-cluster configuration",
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

// An istiod that is not there is waited for as long as one wants to, and no longer.
func TestAwait(t *testing.T) {
	c, err := ReadConfig(config(t, "sources: [{istio: {address: '127.0.0.1:1', plaintext: true}}]"))
	if err != nil {
		t.Fatal(err)
	}
	names := resolver.NewNames()
	s, err := Open(c, names, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.layers[0].Name(); got != "source 1 (istio)" {
		t.Errorf("the layer is %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	<-s.started
	cancel()
	running.Wait()
	if missing := s.Await(ctx); !slices.Equal(missing, []string{"127.0.0.1:1"}) {
		t.Errorf("missing are %q", missing)
	}
}
