// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/test/cluster"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// serviceName is a Service that every cluster has, and serviceAddr its address.
const (
	serviceName = "kubernetes.default.svc.cluster.local"
	serviceAddr = "10.96.0.1"
)

// clientPod is a pod in which a test runs lookups. more is further lines of its spec,
// indented by two.
func clientPod(name, node, more string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: client}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: %q, imagePullPolicy: Never}]
%s`, name, node, cluster.ClientImage, more)
}

// loadPod is a pod that asks for three names all the time: of the table, of the
// cluster, and of neither.
func loadPod(name, node string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: load}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: load
    image: %q
    imagePullPolicy: Never
    command: [/bin/pod, load, -rate, "100", %s, %s, %s]
`, name, node, cluster.ClientImage, tableName, serviceName, cluster.OutsideName)
}

// wantAddr has every C library of a pod look a name up.
func (w *world) wantAddr(t *testing.T, pod, name, addr string) {
	t.Helper()
	for _, l := range w.Lookup(pod, name) {
		if !l.Found || !slices.Contains(strings.Fields(l.Output), addr) {
			t.Errorf("%s in %s: %s is not %s: found %v\n%s", l.Library, pod, name, addr, l.Found, l.Output)
		}
	}
}

// wantNothing wants that no C library of a pod finds a name.
func (w *world) wantNothing(t *testing.T, pod, name string) {
	t.Helper()
	for _, l := range w.Lookup(pod, name) {
		if l.Found {
			t.Errorf("%s in %s found %s:\n%s", l.Library, pod, name, l.Output)
		}
	}
}

// awaitAddr returns when a pod finds a name, and fails if it finds something else.
func (w *world) awaitAddr(t *testing.T, pod, name, addr string) {
	t.Helper()
	testenv.Eventually(t, settleTimeout, func() error {
		out, err := w.Exec(pod, "/usr/bin/getent", "ahostsv4", name)
		if err == nil && !slices.Contains(strings.Fields(out), addr) {
			t.Fatalf("%s in %s is not %s: %s", name, pod, addr, out)
		}
		return err
	})
}

// ranBefore: pods are steered that never heard of dnsteer, without a restart.
func ranBefore(t *testing.T, w *world) {
	for _, pod := range []string{"before-1", "before-2"} {
		w.awaitAddr(t, pod, tableName, tableAddr)
		w.wantAddr(t, pod, tableName, tableAddr)
	}
	restarts := w.Kubectl("get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}")
	if strings.Trim(restarts, "0 ") != "" {
		t.Errorf("restarts: %s", restarts)
	}
}

// firstPod asks once, at once, in an init container and in the container after it.
const firstPod = `---
apiVersion: v1
kind: Pod
metadata: {name: first-%[1]s, labels: {app: first}}
spec:
  nodeName: %[1]s
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  initContainers: [{name: init, image: %[2]q, imagePullPolicy: Never, command: [/usr/bin/getent, ahostsv4, %[3]s]}]
  containers: [{name: main, image: %[2]q, imagePullPolicy: Never, command: [/bin/lookup-musl, %[3]s]}]
`

// newPods are steered from their first query on.
func newPods(t *testing.T, w *world) {
	for _, n := range w.Nodes {
		w.Apply(fmt.Sprintf(firstPod, n.Name, cluster.ClientImage, tableName))
	}
	w.Kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod", "-l", "app=first", rollTimeout)
	for _, n := range w.Nodes {
		for _, container := range []string{"init", "main"} {
			out := w.Kubectl("logs", "first-"+n.Name, "-c", container)
			if !slices.Contains(strings.Fields(out), tableAddr) {
				t.Errorf("%s of first-%s: %s", container, n.Name, out)
			}
		}
	}
	// A pod that chose its own nameserver and search list.
	w.Apply(clientPod("own-dns", "n1", fmt.Sprintf(`  dnsPolicy: None
  dnsConfig: {nameservers: [%s], searches: [cluster2.example.org], options: [{name: ndots, value: "1"}]}
`, w.Nodes[0].Gateway)))
	w.AwaitPod("own-dns")
	w.wantAddr(t, "own-dns", tableName, tableAddr)
	w.wantAddr(t, "own-dns", "reviews", tableAddr)
	w.wantAddr(t, "own-dns", cluster.OutsideName, cluster.OutsideAddr)
	w.wantNothing(t, "own-dns", serviceName) // its own nameserver does not know the cluster
}

// leftAlone: pods of the node's network, and those that want nothing of it.
func leftAlone(t *testing.T, w *world) {
	w.Apply(clientPod("host-network", "n1", "  hostNetwork: true\n  dnsPolicy: ClusterFirstWithHostNet\n"))
	w.Apply(strings.Replace(clientPod("steer-off", "n1", ""), "labels:", `annotations: {dnsteer.dev/steer: "false"}, labels:`, 1))
	for _, pod := range []string{"host-network", "steer-off"} {
		w.AwaitPod(pod)
		w.wantNothing(t, pod, tableName)
		w.wantAddr(t, pod, serviceName, serviceAddr)
	}
}

// clusterDNS: what the cluster's own DNS says is unharmed, and it asks the world as
// before.
func clusterDNS(t *testing.T, w *world) {
	w.Apply("apiVersion: v1\nkind: Service\nmetadata: {name: fresh}\nspec: {clusterIP: 10.96.7.7, ports: [{port: 80}]}\n")
	for _, pod := range []string{"before-1", "before-2"} {
		w.wantAddr(t, pod, serviceName, serviceAddr)
		w.wantAddr(t, pod, cluster.OutsideName, cluster.OutsideAddr)
		w.wantNothing(t, pod, "nowhere.default.svc.cluster.local")
	}
	// The source of names: Services by another domain than the cluster's.
	w.wantAddr(t, "before-1", "kubernetes.default.svc.here.example.org", serviceAddr)
	// The Service of a moment ago is known: who asked before the cluster's DNS knew it would
	// be told for half a minute that it does not exist.
	w.awaitAddr(t, "before-1", "fresh", "10.96.7.7")
}
