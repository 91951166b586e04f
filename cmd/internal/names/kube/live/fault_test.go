// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// What networks and administrators do to the way to an API server, one after the other.
func TestFaults(t *testing.T) {
	p := newPlane(t)
	p.service(t, "web", "192.0.2.1")
	way := newProxy(t, p)
	const name = "web.default.svc.east.example.org"
	east := kube.Cluster{Name: "east", Zones: []string{"east.example.org"}, Rest: way.rest()}

	t.Run("nothing in part", func(t *testing.T) {
		free := make(chan struct{})
		way.cut(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "endpointslices") {
				<-free
			}
			return false
		})
		b := newBench(t, kube.Config{})
		b.set(t, east)
		// The Services are there, and what is behind them is not.
		testenv.Eventually(t, patience, func() error {
			if st := b.source.Status(); len(st) != 1 || st[0].Services < 1 || st[0].Synced {
				return fmt.Errorf("status: %+v", st)
			}
			return nil
		})
		if names, _ := b.layer.Count(); names != 0 {
			t.Errorf("%d names are served in part", names)
		}
		close(free)
		b.eventually(t, name, "A", "192.0.2.1")
	})

	b := newBench(t, kube.Config{MaxAge: 3 * time.Second})
	way.cut(nil)
	b.set(t, east)
	b.eventually(t, name, "A", "192.0.2.1")

	t.Run("a watch that is cut", func(t *testing.T) {
		for i := range 5 {
			way.cut(nil)
			addr := fmt.Sprintf("192.0.2.%d", 10+i)
			p.endpoints(t, "web", addr)
			b.eventually(t, name, "A", addr)
		}
	})

	t.Run("410 Gone", func(t *testing.T) {
		var told atomic.Int64
		way.cut(func(w http.ResponseWriter, r *http.Request) bool {
			if !isWatch(r) || r.URL.Query().Get("sendInitialEvents") != "" || told.Add(1) > 3 {
				return false
			}
			return status(w, http.StatusGone, "Expired", "too old resource version")
		})
		p.service(t, "late", "192.0.2.40") // while nobody watches
		p.remove(t, p.core, "services", "web")
		b.eventually(t, "late.default.svc.east.example.org", "A", "192.0.2.40")
		b.eventually(t, name, "A", "SERVFAIL")
		if told.Load() == 0 { // one that had just begun lists again of itself
			t.Error("nobody was told")
		}
		p.service(t, "web", "192.0.2.41")
		b.eventually(t, name, "A", "192.0.2.41")
	})

	refuse := func(code int, reason, wait string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			if wait != "" {
				w.Header().Set("Retry-After", wait)
			}
			return status(w, code, reason, "told so")
		}
	}
	const kinds = 3 // that are watched, each of which may tell
	silence := make(chan struct{})
	for _, tc := range []struct {
		name  string
		spoil func(http.ResponseWriter, *http.Request) bool
		err   string // as the status has it, too
		hint  string
	}{
		{"credentials", refuse(http.StatusUnauthorized, "Unauthorized", ""), "told so", "does not accept the credentials"},
		{"rights", refuse(http.StatusForbidden, "Forbidden", ""), "told so", "allow get, list and watch of it"},
		{"overload", refuse(http.StatusServiceUnavailable, "ServiceUnavailable", ""), "told so", "asked again, less and less often"},
		{"told to wait", refuse(http.StatusTooManyRequests, "TooManyRequests", "3600"), "told so", "asked again, less and less often"},
		{"silence", func(http.ResponseWriter, *http.Request) bool { <-silence; return false }, "no answer from its API server for 10s", "the network lets us through"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			said := func() int { return strings.Count(b.log.String(), tc.err) }
			before := said()
			var asked atomic.Int64
			way.cut(func(w http.ResponseWriter, r *http.Request) bool { asked.Add(1); return tc.spoil(w, r) })
			b.log.Saw(t, patience, "away; its names stay as they were", tc.err, tc.hint)
			testenv.Eventually(t, patience, func() error {
				if st := b.source.Status(); !strings.Contains(st[0].Error, tc.err) {
					return fmt.Errorf("status: %+v", st)
				}
				return nil
			})
			if tc.name == "overload" {
				// And in the end it is away for too long.
				b.eventually(t, name, "A", "SERVFAIL")
				b.log.Saw(t, patience, "away for too long; its names are let go")
			}
			if tc.name == "silence" {
				close(silence)
			} else {
				testenv.Eventually(t, patience, func() error {
					if n := asked.Load(); n < 2*kinds {
						return fmt.Errorf("asked %d times", n)
					}
					return nil
				})
			}
			if n := said() - before; n > kinds {
				t.Errorf("the same is told %d times", n)
			}
			way.cut(nil)
			b.eventually(t, name, "A", "192.0.2.41")
			testenv.Eventually(t, patience, func() error {
				if st := b.source.Status(); st[0].Away > 0 {
					return fmt.Errorf("status: %+v", st)
				}
				return nil
			})
		})
	}
}

// Secrets name clusters: they come, change and go, and one that is wrong says so and
// harms no other.
func TestSecrets(t *testing.T) {
	both := planes(t, 2)
	here, east := both[0], both[1]
	east.service(t, "web", "192.0.2.1")
	b := newBench(t, kube.Config{})
	renewed := make(chan *rest.Config)
	ctx, cancel := context.WithCancel(b.ctx)
	var running sync.WaitGroup
	running.Go(func() {
		b.source.RunSecrets(ctx, kube.Secrets{Rest: here.config, Renewed: renewed, Namespace: "default", Cluster: kube.Cluster{Zones: []string{"{cluster}.example.org"}}})
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	good := inline(t, east.Kubeconfig)
	secret := func(name string, data map[string]string) {
		t.Helper()
		o := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"istio/multiCluster": "true"}}, Data: make(map[string][]byte)}
		for k, v := range data {
			o.Data[k] = []byte(v)
		}
		here.write(t, here.core, "secrets", o)
	}

	secret("east", map[string]string{"east": good})
	b.eventually(t, "web.default.svc.east.example.org", "A", "192.0.2.1")

	// Garbage, a program, a cluster that another Secret has, and one that is refused.
	secret("bad", map[string]string{"bad": "\x00"})
	b.log.Saw(t, patience, `msg="leave a cluster as it is" secret=default/bad cluster=bad err="read kubeconfig: `)
	secret("program", map[string]string{"p": strings.Replace(good, "token: ", "exec: {command: /bin/sh, apiVersion: client.authentication.k8s.io/v1} #", 1)})
	b.log.Saw(t, patience, `secret=default/program cluster=p err="refuse kubeconfig: user \"admin\" needs a program`)
	secret("twice", map[string]string{"east": strings.ReplaceAll(good, "token", "token ")})
	b.log.Saw(t, patience, `secret=default/twice cluster=east err="a cluster of this name is in secret default/east already"`)
	secret("stranger", map[string]string{"west": strings.Replace(good, "token: ", "token: x", 1)})
	b.log.Saw(t, patience, "cluster=west", "does not accept the credentials")

	// A Secret that becomes wrong leaves its cluster as it is.
	secret("east", map[string]string{"east": "no longer a kubeconfig"})
	b.log.Saw(t, patience, "secret=default/east cluster=east err=")
	east.endpoints(t, "web", "192.0.2.2")
	b.eventually(t, "web.default.svc.east.example.org", "A", "192.0.2.2")

	// One that changes is watched in the new way, and served meanwhile.
	secret("east", map[string]string{"east": good + "# new\n"})
	testenv.Eventually(t, patience, func() error {
		if n := strings.Count(b.log.String(), `msg="the cluster is served" cluster=east`); n < 2 {
			return fmt.Errorf("served %d times", n)
		}
		return nil
	})
	east.endpoints(t, "web", "192.0.2.3")
	b.eventually(t, "web.default.svc.east.example.org", "A", "192.0.2.3")

	// Secrets are asked for in a new way, first one that makes no sense; clusters stay.
	wrong := rest.CopyConfig(here.config)
	wrong.Host = "http://[no"
	renewed <- wrong
	b.log.Saw(t, patience, `msg="the clusters stay as they are" kind="secrets istio/multiCluster=true"`)
	renewed <- rest.CopyConfig(here.config)
	east.endpoints(t, "web", "192.0.2.4")
	b.eventually(t, "web.default.svc.east.example.org", "A", "192.0.2.4")

	// One that is gone leaves its cluster to another that names it, and the last one takes
	// it away.
	here.remove(t, here.core, "secrets", "east")
	b.log.Saw(t, patience, `msg="the cluster is of another secret now" secret=default/twice cluster=east`)
	east.endpoints(t, "web", "192.0.2.5")
	b.eventually(t, "web.default.svc.east.example.org", "A", "192.0.2.5")
	here.remove(t, here.core, "secrets", "twice")
	b.eventually(t, "web.default.svc.east.example.org", "A", "SERVFAIL")
}

// inline is a kubeconfig with the content of its files.
func inline(t *testing.T, path string) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range config.Clusters {
		if c.CertificateAuthority != "" {
			c.CertificateAuthorityData, c.CertificateAuthority = readFile(t, c.CertificateAuthority), ""
		}
	}
	data, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
