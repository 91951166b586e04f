// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
	"github.com/dnsteer/dnsteer/cmd/internal/agentstatus"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// The CLI shows every pod: whose resolver answers, where, and why or why not.
func TestStatus(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	status := func(args ...string) string {
		t.Helper()
		args = append([]string{"status", "--bpffs", w.bpffs, "--agent-socket", w.socket()}, args...)
		out, err := exec.Command(build(t, "dnsteer"), args...).CombinedOutput()
		if err != nil {
			t.Fatalf("status: %v: %s", err, out)
		}
		return string(out)
	}
	if out := status(); strings.Contains(out, "agent") {
		t.Errorf("without an agent: %s", out)
	}
	agent := w.start(t, testenv.NewNetNS(t), "-leaks")
	w.twoPods(t)
	left := podAttachment(t, testenv.NewNetNS(t), "left", "192.0.2.53")
	left.Annotations = map[string]string{cluster.Steer: "false"}
	taken, _ := testenv.NewLink(t)
	listenUDP(t, taken, "127.0.0.1:15053")
	w.runPod(t, taken, uidA, confA)
	if err := w.client().Add(t.Context(), left); err != nil {
		t.Fatal(err)
	}
	agent.says(t, "answers no query")

	var states []struct{ Agent agentstatus.Status }
	if err := json.Unmarshal([]byte(status("--json")), &states); err != nil || len(states) != 1 {
		t.Fatalf("%d datapaths: %v", len(states), err)
	}
	pods := make(map[string]agentstatus.Pod)
	for _, p := range states[0].Agent.Pods {
		pods[p.Namespace+"/"+p.Name+p.UID] = p
	}
	if states[0].Agent.PID != agent.cmd.Process.Pid || len(pods) != 4 {
		t.Errorf("process %d, %d pods: %v", states[0].Agent.PID, len(pods), pods)
	}
	p := pods["default/pod-0"]
	if p.Resolver != "node" || p.Reason != "all pods" || len(p.Attachments) != 1 || p.Attachments[0] != "pod-0 eth0" ||
		len(p.Listeners) == 0 || p.Listeners[0].String() != "127.0.0.1:15053" || len(p.Nameservers) != 1 {
		t.Errorf("a pod that is steered: %+v", p)
	}
	if p := pods["default/left"]; p.Resolver != "" || p.Reason != "annotation of the pod" || p.Error != "" {
		t.Errorf("a pod that is left alone: %+v", p)
	}
	if p := pods["/"+uidA]; p.Resolver != "" || !strings.Contains(p.Error, "address already in use") || p.NetNS == "" {
		t.Errorf("a pod that cannot be steered: %+v", p)
	}
	out := status()
	for _, want := range []string{"steers 2 of 4 pods; stands alone", "NAMESPACE", "pod-0", "127.0.0.1:15053,[::1]:15053", "127.0.0.1:15053", "FAILED: "} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing: %s", want, out)
		}
	}
	agent.end(t, unix.SIGTERM)
	if out := status(); strings.Contains(out, "agent") {
		t.Errorf("after the agent: %s", out)
	}
}
