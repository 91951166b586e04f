// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// localRoutes are the routes of a namespace to its own IPv6 addresses, and to tags.
func localRoutes(t *testing.T, ns *testenv.NetNS) string {
	t.Helper()
	var text []string
	ns.Do(func() {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			text = append(text, r.String())
		}
	})
	return strings.Join(text, "\n")
}

// After an agent that was killed, everything is taken off the node: sockets are given back,
// nothing is attached, and no file is left.
func TestUninstall(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	confDir, binDir := w.cniDirs(t)
	list := filepath.Join(confDir, "10-vendor.conflist")
	writeFile(t, list, vendorList)
	routes := localRoutes(t, pod)
	install := []string{"-cni-plugin", build(t, "dnsteer-cni"), "-cni-conf-dir", confDir, "-cni-bin-dir", binDir}
	agent := w.start(t, testenv.NewNetNS(t), install...)
	agent.says(t, "msg=installed")
	if err := w.client().Add(t.Context(), podAttachment(t, pod, "pod", "192.0.2.53")); err != nil {
		t.Fatal(err)
	}
	a := w.runPod(t, pod, uidA, confA)
	if got := a.ask(svc); got != fromTab {
		t.Errorf("steered: %s", got)
	}
	if localRoutes(t, pod) == routes {
		t.Error("there is no route to tags, which this test is about")
	}
	uninstall := func() (string, error) {
		out, err := exec.Command(w.binary, append(append(w.args(), install...), "-uninstall")...).CombinedOutput()
		return string(out), err
	}
	if out, err := uninstall(); err == nil || !strings.Contains(out, "an agent runs on this node") {
		t.Errorf("while the agent runs: %v: %s", err, out)
	}
	if got := a.ask(svc); got != fromTab {
		t.Errorf("after an attempt: %s", got)
	}
	agent.end(t, unix.SIGKILL)
	for _, before := range []func(){func() {}, func() {}, func() { w.loadHalf(t) }} { // the second finds nothing
		before()
		if out, err := uninstall(); err != nil {
			t.Errorf("uninstall: %v: %s", err, out)
		}
	}
	if got := a.ask(svc); got != "198.51.100.53" {
		t.Errorf("a connected socket after all: %s", got)
	}
	if got := localRoutes(t, pod); got != routes {
		t.Errorf("routes before:\n%s\nafter:\n%s", routes, got)
	}
	if text, err := os.ReadFile(list); err != nil || string(text) != vendorList {
		t.Errorf("the configuration after all: %s, %v", text, err)
	}
	for _, pattern := range []string{binDir + "/*", w.dir + "/agent*", w.dir + "/state*", w.bpffs + "/dnsteer*"} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// loadHalf leaves what a loader leaves that dies just before it has done.
func (w *world) loadHalf(t *testing.T) {
	t.Helper()
	d, err := loader.Load(w.opts())
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	state, err := filepath.Glob(w.bpffs + "/dnsteer/*")
	if err != nil || len(state) != 1 {
		t.Fatalf("state: %v, %v", state, err)
	}
	if err := os.Rename(state[0], state[0]+"_new"); err != nil {
		t.Fatal(err)
	}
}
