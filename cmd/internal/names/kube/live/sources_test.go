// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/cmd/internal/names"
	"github.com/dnsteer/dnsteer/resolver"
	testkube "github.com/dnsteer/dnsteer/test/kube"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// A file of sources from end to end: clusters that are there are waited for, one that is
// not is named and holds nobody up, and what files say hides what clusters do.
func TestSources(t *testing.T) {
	p := newPlane(t)
	p.service(t, "web", "192.0.2.1")
	p.service(t, "db", "192.0.2.2")
	nobody := p.WriteKubeconfig("nobody", "unknown")
	path := filepath.Join(t.TempDir(), "sources.yaml")
	text := fmt.Sprintf(`
sources:
- kubernetes:
    clusters:
    - {name: east, kubeconfig: %s, zones: [example.org]}
    - {name: west, kubeconfig: %s, zones: [example.org]}
`, p.Kubeconfig, nobody)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := names.ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	all := resolver.NewNames()
	if _, err := all.AddLayer("files").SetFiles(resolver.Source{Path: "hosts", Data: []byte("192.0.2.99 web.default.svc.example.org")}); err != nil {
		t.Fatal(err)
	}
	log := new(testenv.LogBook)
	sources, err := names.Open(config, all, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { sources.Run(ctx) })
	log.Saw(t, patience, "cluster=west", "does not accept the credentials", `msg="the cluster is served" cluster=east`)
	waiting, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	if missing := sources.Await(waiting); !slices.Equal(missing, []string{"west"}) {
		t.Errorf("missing: %q", missing)
	}
	// web, 192-0-2-1.web and its port, the same of db, kubernetes and its port, dns-version.
	if got := all.Table().Names(); got != 9 {
		t.Errorf("%d names", got)
	}
	log.Saw(t, patience, `msg="names are hidden by an earlier source" layer="source 1 (kubernetes)" names=9 hidden=1`,
		`example="web.default.svc.example.org. of kubernetes east is already in hosts:1, which wins"`)

	// A kubeconfig that is mended is used; one that is spoilt changes nothing.
	good := readFile(t, p.Kubeconfig)
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(nobody, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	status := func(want bool) {
		t.Helper()
		testenv.Eventually(t, patience, func() error {
			all := sources.Status()
			if len(all) != 2 || all[0].Of != "east" || !all[0].Synced || all[0].Age != 0 || all[1].Of != "west" || all[1].Source != "source 1 (kubernetes)" ||
				all[1].Synced != want || (all[1].Age > 0) == want || (all[1].Error == "") != want {
				return fmt.Errorf("status: %+v", all)
			}
			return nil
		})
	}
	status(false)
	write(good)
	log.Saw(t, patience, `msg="a kubeconfig has changed, or a certificate that it names: list the cluster anew" cluster=west`, `msg="the cluster is served" cluster=west`)
	status(true)
	write(nil)
	log.Saw(t, patience, `msg="a kubeconfig makes no sense; its cluster stays as it is" cluster=west`, "it has no cluster")
	write([]byte("{"))
	log.Saw(t, patience, "error loading config file")
	status(true)
}

// Files that a kubeconfig names: a certificate authority is followed, a token read again, and
// what is wrong with either is told in words.
func TestFilesOfKubeconfig(t *testing.T) {
	p := newPlane(t)
	p.service(t, "web", "192.0.2.1")
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stranger := testkube.NewPKI(t, t.TempDir())
	ca, token := file("ca", readFile(t, stranger.File("ca.crt"))), file("token", []byte("wrong"))
	kubeconfig := file("kubeconfig", fmt.Appendf(nil, `
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u, user: {tokenFile: %q}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`, p.URL, ca, token))
	config, err := names.ReadConfig(file("sources", fmt.Appendf(nil, "sources: [{kubernetes: {clusters: [{name: east, kubeconfig: %s, zones: [example.org]}]}}]", kubeconfig)))
	if err != nil {
		t.Fatal(err)
	}
	log := new(testenv.LogBook)
	sources, err := names.Open(config, resolver.NewNames(), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { sources.Run(ctx) })
	saw := func(synced bool, words ...string) {
		t.Helper()
		log.Saw(t, 2*patience, words...) // client-go keeps a token for a minute
		testenv.Eventually(t, patience, func() error {
			if st := sources.Status()[0]; st.Synced != synced || (st.Error == "") != synced {
				return fmt.Errorf("status: %+v", st)
			}
			return nil
		})
	}
	saw(false, "x509: certificate signed by unknown authority", "its certificate is not one that the kubeconfig trusts")
	file("ca", readFile(t, p.PKI.File("ca.crt")))
	saw(false, `msg="a kubeconfig has changed, or a certificate that it names: list the cluster anew" cluster=east`, "its API server does not accept the credentials")
	file("token", []byte(p.config.BearerToken))
	saw(true, `msg="the cluster is served" cluster=east`)
	file("ca", []byte("no certificate"))
	saw(true, `msg="a kubeconfig makes no sense; its cluster stays as it is" cluster=east`, "read certificates of kubeconfig")
}
