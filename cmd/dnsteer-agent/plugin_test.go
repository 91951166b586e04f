// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	vendorList = "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"pods\",\n  \"plugins\": [\n    { \"type\": \"vendor\" }\n  ]\n}\n"
	vendor     = `#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] && printf '{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.1/24"}],"dns":{}}'
exit 0
`
)

// From the installation to the first query: the agent installs the plugin, a runtime
// calls it, the pod is steered; and all of it back.
func TestPlugin(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	confDir, binDir := w.cniDirs(t)
	if err := os.WriteFile(filepath.Join(binDir, "vendor"), []byte(vendor), 0o755); err != nil {
		t.Fatal(err)
	}
	install := []string{"-cni-plugin", build(t, "dnsteer-cni"), "-cni-conf-dir", confDir, "-cni-bin-dir", binDir}
	agent := w.start(t, server, install...)

	// The network's plugin comes after us.
	path := filepath.Join(confDir, "10-vendor.conflist")
	writeFile(t, path, vendorList)
	testenv.Eventually(t, patience, func() error {
		if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), w.socket()) {
			return fmt.Errorf("our entry is not there: %s, %v", text, err)
		}
		return nil
	})
	list, err := libcni.LoadNetworkConf(confDir, "pods")
	if err != nil {
		t.Fatal(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{binDir}, t.TempDir(), nil)
	runtime := &libcni.RuntimeConf{ContainerID: "c1", NetNS: pod.Path(), IfName: "eth0",
		CapabilityArgs: map[string]any{"dns": map[string]any{"Servers": []string{"192.0.2.53"}}}}
	w.expect(t, pod, "192.0.2.53", svc, "198.51.100.53")
	if _, err := cni.AddNetworkList(t.Context(), list, runtime); err != nil {
		t.Fatalf("add: %v", err)
	}
	w.expect(t, pod, "192.0.2.53", svc, fromTab)
	if err := cni.CheckNetworkList(t.Context(), list, runtime); err != nil {
		t.Errorf("check: %v", err)
	}
	if err := w.client().Del(t.Context(), podAttachment(t, pod, "c1", "192.0.2.53")); err != nil {
		t.Error(err)
	}
	if err := cni.CheckNetworkList(t.Context(), list, runtime); err == nil || !strings.Contains(err.Error(), "not steered") {
		t.Errorf("check of a pod that was withdrawn: %v", err)
	}
	if _, err := cni.AddNetworkList(t.Context(), list, runtime); err != nil {
		t.Fatalf("add again: %v", err)
	}
	w.expect(t, pod, "192.0.2.53", svc, fromTab)
	if err := cni.DelNetworkList(t.Context(), list, runtime); err != nil {
		t.Errorf("del: %v", err)
	}
	w.expect(t, pod, "192.0.2.53", svc, "198.51.100.53")

	// Pods come and go while the agent is away.
	agent.end(t, unix.SIGKILL)
	if _, err := cni.AddNetworkList(t.Context(), list, runtime); err != nil {
		t.Errorf("add without agent: %v", err)
	}
	if err := cni.DelNetworkList(t.Context(), list, runtime); err != nil {
		t.Errorf("del without agent: %v", err)
	}
	if err := run(t.Context(), append(append(w.args(), install...), "-uninstall"), io.Discard, os.Stderr); err != nil {
		t.Errorf("uninstall: %v", err)
	}
	text, err := os.ReadFile(path)
	if err != nil || string(text) != vendorList {
		t.Errorf("the configuration after all: %s, %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(binDir, "dnsteer-cni")); !os.IsNotExist(err) {
		t.Errorf("the binary after all: %v", err)
	}
}

// cniDirs makes the node's directories of CNI configurations and of plugins.
func (w *world) cniDirs(t *testing.T) (confDir, binDir string) {
	t.Helper()
	confDir, binDir = filepath.Join(w.dir, "net.d"), filepath.Join(w.dir, "bin")
	for _, dir := range []string{confDir, binDir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return confDir, binDir
}
