// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
	"github.com/dnsteer/dnsteer/cmd/internal/agentstatus"
	"github.com/dnsteer/dnsteer/resolver"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// scrape reads the metrics at a socket.
func scrape(t *testing.T, socket string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	resp, err := client.Get("http://agent/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %s, %v", resp.Status, err)
	}
	return string(text)
}

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
	metrics := filepath.Join(w.dir, "metrics")
	sources := filepath.Join(t.TempDir(), "sources.yaml")
	if err := os.WriteFile(sources, []byte("sources: [{istio: {address: '127.0.0.1:1', plaintext: true}}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := w.start(t, testenv.NewNetNS(t), "-leaks", "-metrics", metrics, "-sources", sources)
	steered := w.twoPods(t)
	left := podAttachment(t, testenv.NewNetNS(t), "left", "192.0.2.53")
	left.Annotations = map[string]string{cluster.Steer: "false"}
	taken, _ := testenv.NewLink(t)
	listenUDP(t, taken, "127.0.0.1:15053")
	w.runPod(t, taken, uidA, confA)
	if err := w.client().Add(t.Context(), left); err != nil {
		t.Fatal(err)
	}
	agent.says(t, "answers no query")
	for range 2 {
		w.expect(t, steered[0], "192.0.2.53", svc, fromTab)
		w.expect(t, steered[0], "192.0.2.53", "www.example.org.", "198.51.100.53")
	}
	if got := w.resolve(t, steered[1], "192.0.2.53", svc, "eth0"); got != "198.51.100.53" {
		t.Errorf("by a device: %s", got)
	}

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
		p.Answered == nil || p.Answered.Table < 2 || p.Answered.Cache < 1 || p.Answered.Forward < 1 || p.Answered.Failure != 0 || p.Leaks == nil || *p.Leaks != 0 ||
		len(p.Listeners) == 0 || p.Listeners[0].String() != "127.0.0.1:15053" || len(p.Nameservers) != 1 {
		t.Errorf("a pod that is steered: %+v", p)
	}
	if p := pods["default/pod-1"]; p.Answered == nil || *p.Answered != (resolver.Answered{}) || p.Leaks == nil || *p.Leaks == 0 {
		t.Errorf("a pod that goes past it: %+v", p)
	}
	if p := pods["default/left"]; p.Answered != nil || p.Leaks != nil || p.Resolver != "" || p.Reason != "annotation of the pod" || p.Error != "" {
		t.Errorf("a pod that is left alone: %+v", p)
	}
	if p := pods["/"+uidA]; p.Resolver != "" || !strings.Contains(p.Error, "address already in use") || p.NetNS == "" {
		t.Errorf("a pod that cannot be steered: %+v", p)
	}
	if all := states[0].Agent.Sources; len(all) != 1 || all[0].Source != "source 1 (istio)" || all[0].Of != "127.0.0.1:1" || all[0].Synced || all[0].Age <= 0 || all[0].Error == "" {
		t.Errorf("a mesh that is not there: %+v", all)
	}
	out := status()
	for _, want := range []string{"source 1 (istio)  127.0.0.1:1  not told yet", "connection refused", "steers 2 of 4 pods; stands alone", "NAMESPACE", "FORWARD", "pod-0", "127.0.0.1:15053,[::1]:15053", "127.0.0.1:15053", "FAILED: "} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing: %s", want, out)
		}
	}
	if page := scrape(t, metrics); !strings.Contains(page, `dnsteer_datapath_leaks_total{family="ipv4",protocol="udp",reason="bound"}`) ||
		!strings.Contains(page, `dnsteer_source_synced{of="127.0.0.1:1",source="source 1 (istio)"} 0`) ||
		!strings.Contains(page, `dnsteer_resolver_queries_total{protocol="udp",rcode="NOERROR",source="table"}`) {
		t.Errorf("metrics: %s", page)
	}
	agent.end(t, unix.SIGTERM)
	if out := status(); strings.Contains(out, "agent") {
		t.Errorf("after the agent: %s", out)
	}
}
