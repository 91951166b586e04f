// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/test/cluster"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// awayLabel is on the node that is to have no agent; the overlay says so to the DaemonSet.
const awayLabel = "dnsteer-test"

// other is the node that the cluster's DNS is not on: what becomes of it leaves names as
// they are.
func (w *world) other(t *testing.T) *cluster.Node {
	t.Helper()
	dns := w.Pods("kube-system", "k8s-app=kube-dns")
	if len(dns) != 1 {
		t.Fatalf("pods of the cluster's DNS: %+v", dns)
	}
	i := slices.IndexFunc(w.Nodes, func(n *cluster.Node) bool { return n.Name != dns[0].Node })
	return w.Nodes[i]
}

// leave ends a node's agent, as a drain does, and lets none come.
func (w *world) leave(t *testing.T, n *cluster.Node) {
	t.Helper()
	w.Kubectl("label", "node", n.Name, awayLabel+"=away")
	testenv.Eventually(t, settleTimeout, func() error {
		if pids := n.Processes("dnsteer-agent"); len(pids) > 0 {
			return fmt.Errorf("agents still run on %s: %v", n.Name, pids)
		}
		return nil
	})
}

// comeBack has the node's agent again.
func (w *world) comeBack(t *testing.T, n *cluster.Node) {
	t.Helper()
	w.Kubectl("label", "node", n.Name, awayLabel+"-")
	w.awaitAgents(t)
}

// readiness is what the API server knows of a node.
type readiness struct {
	Status, Message                       string
	LastHeartbeatTime, LastTransitionTime time.Time
}

func (w *world) readiness(t *testing.T, n *cluster.Node) readiness {
	t.Helper()
	var node struct {
		Status struct {
			Conditions []struct {
				Type string
				readiness
			}
		}
	}
	if err := json.Unmarshal([]byte(w.Kubectl("get", "node", n.Name, "-o", "json")), &node); err != nil {
		t.Fatal(err)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == "Ready" {
			return c.readiness
		}
	}
	t.Fatalf("node %s has no condition Ready", n.Name)
	return readiness{}
}

// away: a node without an agent is ready, and pods start on it, unsteered. They are
// steered when it is back.
func away(t *testing.T, w *world) {
	n := w.other(t)
	from, ready := w.loads(), w.readiness(t, n)
	w.leave(t, n)
	w.Apply(clientPod("late", n.Name, ""))
	w.AwaitPod("late")
	w.wantNothing(t, "late", tableName)
	w.wantAddr(t, "late", serviceName, serviceAddr)
	left := w.readiness(t, n).LastHeartbeatTime
	testenv.Eventually(t, settleTimeout, func() error {
		if now := w.readiness(t, n); now.LastHeartbeatTime.Sub(left) < 10*time.Second {
			return fmt.Errorf("kubelet has not judged the node twice since: %+v", now)
		}
		return nil
	})
	if now := w.readiness(t, n); now.Status != "True" || !now.LastTransitionTime.Equal(ready.LastTransitionTime) {
		t.Errorf("the node is not ready, or was not: %+v", now)
	}
	w.comeBack(t, n)
	w.awaitAddr(t, "late", tableName, tableAddr)
	w.awaitSteered(t, 200)
	w.settle(t)
	w.report(t, from, outage{}, tableAddr, unknown)
}

// required: with -cni-required the node is out of service while it has no agent, and its
// pods wait for one; those that run go on.
func required(t *testing.T, w *world) {
	w.Kubectl("-n", namespace, "patch", daemonSet, "--type=json",
		"-p", `[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "-cni-required"}]`)
	w.awaitAgents(t)
	for _, n := range w.Nodes {
		testenv.Eventually(t, settleTimeout, func() error {
			if !strings.Contains(n.Read(conflistPath), `"required":true`) {
				return fmt.Errorf("the plugin of %s does not require the agent: %s", n.Name, n.Read(conflistPath))
			}
			return nil
		})
	}
	n := w.other(t)
	from := w.loads()
	w.leave(t, n)
	testenv.Eventually(t, settleTimeout, func() error {
		if now := w.readiness(t, n); now.Status != "False" || !strings.Contains(now.Message, "dnsteer cannot steer pods") {
			return fmt.Errorf("the node is in service without an agent: %+v", now)
		}
		return nil
	})
	w.Apply(clientPod("waits", n.Name, ""))
	testenv.Eventually(t, settleTimeout, func() error {
		if out := w.Kubectl("get", "events", "--field-selector", "involvedObject.name=waits"); !strings.Contains(out, "NetworkNotReady") {
			return fmt.Errorf("the pod does not wait for the network: %s", out)
		}
		return nil
	})
	w.comeBack(t, n)
	testenv.Eventually(t, settleTimeout, func() error {
		if now := w.readiness(t, n); now.Status != "True" {
			return fmt.Errorf("the node is not in service with its agent: %+v", now)
		}
		return nil
	})
	w.AwaitPod("waits")
	w.wantAddr(t, "waits", tableName, tableAddr)
	w.awaitSteered(t, 200)
	w.settle(t)
	w.report(t, from, outage{}, tableAddr, unknown)
}
