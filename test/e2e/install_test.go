// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/test/cluster"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	namespace = "dnsteer"
	daemonSet = "daemonset/dnsteer-agent"
	// settleTimeout is for what follows a change within seconds, on a busy machine.
	settleTimeout = time.Minute
	// rollTimeout is for pods that come and go, on such a machine.
	rollTimeout = "--timeout=3m"
)

// A name of the table, which the cluster's DNS does not know.
const (
	tableName = "reviews.cluster2.example.org"
	tableAddr = "192.0.2.10"
)

// overlay is how a user sets the names: deploy/ itself, with another ConfigMap; and no
// agent where the label says so; with metrics, and the Services of this cluster under
// another domain.
const overlay = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%[1]q]
components: [%[1]s/metrics, %[1]s/sources]
patches:
- target: {kind: ConfigMap, name: dnsteer-names}
  patch: |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: dnsteer-names}
    data:
      names.yaml: |
        names:
          %[2]s: [%[3]s]
- target: {kind: ConfigMap, name: dnsteer-sources}
  patch: |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: dnsteer-sources}
    data:
      sources.yaml: |
        sources:
        - kubernetes: {clusters: [{name: here, local: true, zones: [here.example.org]}]}
- target: {kind: DaemonSet}
  patch: |
    - op: add
      path: /spec/template/spec/affinity
      value: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{
        matchExpressions: [{key: %[4]s, operator: NotIn, values: [away]}]}]}}}
`

// before makes the pods that are there before dnsteer is.
func before(t *testing.T, w *world) {
	w.Apply(clientPod("before-1", "n1", "") + clientPod("before-2", "n2", "") + loadPod("load-1", "n1") + loadPod("load-2", "n2"))
	w.AwaitPods()
	w.loadPods = w.Pods("default", "app=load")
	if len(w.loadPods) != len(w.Nodes) {
		t.Fatalf("pods with load: %+v", w.loadPods)
	}
	for _, pod := range []string{"before-1", "before-2"} {
		w.wantNothing(t, pod, tableName)
		w.wantAddr(t, pod, cluster.OutsideName, cluster.OutsideAddr)
	}
}

// install is the command of the README, and what it does to the nodes.
func install(t *testing.T, w *world) {
	archive := w.makeImage(t, image)
	for _, n := range w.Nodes {
		n.Load(archive)
	}
	w.Kubectl("apply", "-k", overlayDir(t))
	w.awaitAgents(t)
	for _, n := range w.Nodes {
		testenv.Eventually(t, settleTimeout, func() error {
			if !strings.Contains(n.Read(conflistPath), `"dnsteer-cni"`) {
				return fmt.Errorf("the plugin is not in the conflist of %s", n.Name)
			}
			return nil
		})
	}
	if out := w.Kubectl("get", "nodes", "-o", "name"); strings.Count(out, "node/") != len(w.Nodes) {
		t.Errorf("nodes: %s", out)
	}
}

const conflistPath = "/etc/cni/net.d/10-pods.conflist"

// overlayDir writes the overlay. Its base is a relative path, as kustomize wants it.
func overlayDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	deploy, err := filepath.Abs("../../deploy")
	if err == nil {
		deploy, err = filepath.Rel(dir, deploy)
	}
	if err != nil {
		t.Fatalf("find deploy/: %v", err)
	}
	text := fmt.Sprintf(overlay, deploy, tableName, tableAddr, awayLabel)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644); err != nil {
		t.Fatalf("write overlay: %v", err)
	}
	return dir
}

// awaitAgents returns when the DaemonSet is as it should be on every node.
func (w *world) awaitAgents(t *testing.T) {
	t.Helper()
	if out, err := w.TryKubectl("-n", namespace, "rollout", "status", daemonSet, rollTimeout); err != nil {
		state, _ := w.TryKubectl("-n", namespace, "get", "pods,events", "-o", "wide")
		logs, _ := w.TryKubectl("-n", namespace, "logs", daemonSet, "--tail=30")
		t.Fatalf("roll out the agent: %v\n%s%s\nlog:\n%s", err, out, state, logs)
	}
}
