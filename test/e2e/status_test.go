// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"path/filepath"
	"testing"
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
}
