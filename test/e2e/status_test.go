// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// status: on the node, dnsteer tells of its pods who steers them, and no packet leaves
// an enrolled pod unsteered.
func status(t *testing.T, w *world) {
	dnsteer := filepath.Join(w.bin, "dnsteer")
	for i, n := range w.Nodes {
		var datapaths []struct {
			Agent *struct {
				Pods []struct{ Namespace, Name, Resolver, Reason, Error string }
			}
		}
		out := n.Run(dnsteer, "status", "--json")
		if err := json.Unmarshal([]byte(out), &datapaths); err != nil || len(datapaths) != 1 || datapaths[0].Agent == nil {
			t.Fatalf("status of %s: %v: %s", n.Name, err, out)
		}
		got := map[string]string{}
		for _, pod := range datapaths[0].Agent.Pods {
			if pod.Error != "" {
				t.Errorf("status of %s: %+v", n.Name, pod)
			}
			got[pod.Name] = pod.Resolver
		}
		want := map[string]string{[]string{"before-1", "before-2"}[i]: "node", []string{"load-1", "load-2"}[i]: "node"}
		if i == 0 {
			want["own-dns"], want["steer-off"] = "node", ""
		}
		for pod, resolver := range want {
			if r, known := got[pod]; !known || r != resolver {
				t.Errorf("status of %s: %s is steered by %q, want %q: %s", n.Name, pod, r, resolver, out)
			}
		}
		if _, known := got["host-network"]; known {
			t.Errorf("status of %s: a pod of the node's network is there: %s", n.Name, out)
		}
		n.Run(dnsteer, "leaks", "--for", "3s") // fails if there is one
	}
	w.wantMetrics(t)
	w.wantConfined(t)
}

// confinement is what deploy/ asks for, as /proc/PID/status and mountinfo have it: user and
// group 1337 without groups, a seccomp filter, and a root that nobody can write to.
var confinement = map[string]*regexp.Regexp{
	"status":    regexp.MustCompile(`(?s)\nUid:\t1337\t1337\t1337\t1337\nGid:\t1337\t1337\t1337\t1337\n.*\nGroups:[\t ]*\n.*\nSeccomp:\t2\n`),
	"mountinfo": regexp.MustCompile(`(?m)^\S+ \S+ \S+ \S+ / ro,`),
}

// wantConfined wants every agent to run like that. Its log says what capabilities it keeps
// and why (TestPrivilege of the agent).
func (w *world) wantConfined(t *testing.T) {
	t.Helper()
	for _, n := range w.Nodes {
		testenv.Eventually(t, settleTimeout, func() error { // a probe is the same program, and root
			pids := n.Processes("dnsteer-agent")
			if len(pids) == 0 {
				return fmt.Errorf("no agent runs on %s", n.Name)
			}
			for _, pid := range pids {
				for file, want := range confinement {
					text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
					if err != nil || !want.Match(text) {
						return fmt.Errorf("%s of an agent on %s: %w\n%s", file, n.Name, err, text)
					}
				}
			}
			return nil
		})
	}
	if log := w.Kubectl("-n", namespace, "logs", daemonSet); !strings.Contains(log, "keep capability") {
		t.Errorf("the agent does not say what it holds: %s", log)
	}
}

// wantMetrics wants every node's agent to serve them at the node's address, but no profiles.
func (w *world) wantMetrics(t *testing.T) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, n := range w.Nodes {
		get := func(path string) (code int, body string, err error) {
			resp, err := client.Get("http://" + netip.AddrPortFrom(n.Addr, 9153).String() + path)
			if err != nil {
				return 0, "", err
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			return resp.StatusCode, string(text), err
		}
		testenv.Eventually(t, settleTimeout, func() error { // the agent before had the port
			if code, body, err := get("/metrics"); code != http.StatusOK || !strings.Contains(body, "dnsteer_resolver_queries_total") || err != nil {
				return fmt.Errorf("metrics of %s: %d, %w: %.200s", n.Name, code, err, body)
			}
			return nil
		})
		if code, _, err := get("/debug/pprof/"); code != http.StatusNotFound || err != nil {
			t.Errorf("profiles of %s: %d, %v", n.Name, code, err)
		}
	}
}
