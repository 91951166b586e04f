// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// dead: the DaemonSet is removed while its agents hang, and they are killed. What they could
// not take with them harms nobody: pods resolve as before, new ones start.
func dead(t *testing.T, w *world) {
	from := w.loads()
	stopped := time.Now()
	w.signalAgents(t, unix.SIGSTOP)
	signalled := time.Now()
	w.Kubectl("-n", namespace, "delete", daemonSet, "--cascade=orphan")
	w.Kubectl("-n", namespace, "delete", "pods", "--all", "--force", "--grace-period=0")
	w.Kubectl("delete", "-k", overlayDir(t), "--ignore-not-found", rollTimeout)
	for _, n := range w.Nodes {
		testenv.Eventually(t, settleTimeout, func() error {
			if pids := n.Processes("dnsteer-agent"); len(pids) > 0 {
				return fmt.Errorf("agents still run on %s: %v", n.Name, pids)
			}
			return nil
		})
		if !strings.Contains(n.Read(conflistPath), `"dnsteer-cni"`) || !n.Exists("/sys/fs/bpf/dnsteer") {
			t.Errorf("%s has nothing left behind, which this test is about", n.Name)
		}
	}
	w.awaitOutcome(t, unknown, 100)
	w.Apply(clientPod("after-death", "n2", ""))
	w.AwaitPod("after-death")
	w.wantAddr(t, "after-death", serviceName, serviceAddr)
	w.settle(t)
	w.report(t, from, outage{stopped, signalled.Add(heartbeat)}, tableAddr, unknown)
}

// installAgain steers all pods, also those that started meanwhile.
func installAgain(t *testing.T, w *world) {
	w.Kubectl("apply", "-k", overlayDir(t))
	w.awaitAgents(t)
	w.awaitSteered(t, 200)
	w.awaitAddr(t, "after-death", tableName, tableAddr)
}
