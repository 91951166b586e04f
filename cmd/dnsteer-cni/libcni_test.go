// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/cmd/internal/conflist"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// vendor is a plugin that makes a result, and the one before ours in the chain.
const vendor = `#!/bin/sh
cat >/dev/null
case $CNI_COMMAND in
ADD) printf '{"cniVersion":"%s","interfaces":[{"name":"eth0","sandbox":"%s"}],"ips":[{"version":"4","interface":0,"address":"192.0.2.7/24"}],"dns":{}}' "$VENDOR_VERSION" "$CNI_NETNS" ;;
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
esac
`

// The library that runtimes and cnitool use drives the whole life of a pod.
func TestLibrary(t *testing.T) {
	testenv.Privileged(t)
	binary, ns := build(t), testenv.NewNetNS(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vendor"), []byte(vendor), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Setenv("VENDOR_VERSION", version)
			a := newAgent(t, nil)
			cni := libcni.NewCNIConfigWithCacheDir([]string{dir, filepath.Dir(binary)}, t.TempDir(), nil)
			list := confList(t, version, `,{"type":"dnsteer-cni","socket":"`+a.socket+`","capabilities":{"dns":true}}`)
			if _, err := cni.ValidateNetworkList(t.Context(), list); err != nil {
				t.Fatalf("validate: %v", err)
			}
			pod := &libcni.RuntimeConf{
				ContainerID: "c1", NetNS: ns.Path(), IfName: "eth0",
				Args:           [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "web-1"}},
				CapabilityArgs: map[string]any{"dns": map[string]any{"Servers": []string{"192.0.2.53"}}},
			}
			bare := libcni.NewCNIConfigWithCacheDir([]string{dir}, t.TempDir(), nil)
			want := add(t, bare, confList(t, version, ""), pod)
			if diff := cmp.Diff(want, add(t, cni, list, pod)); diff != "" {
				t.Errorf("result with us in the chain (-without +with):\n%s", diff)
			}
			do := []string{"add"}
			if version >= "0.4.0" {
				must(t, "check", cni.CheckNetworkList(t.Context(), list, pod))
				do = append(do, "check")
			}
			must(t, "del", cni.DelNetworkList(t.Context(), list, pod))
			gone := *pod
			gone.NetNS = ""
			must(t, "del again", cni.DelNetworkList(t.Context(), list, &gone))
			do = append(do, "del", "del")
			must(t, "status", cni.GetStatusNetworkList(t.Context(), list))
			must(t, "gc without list", cni.GCNetworkList(t.Context(), list, nil))
			must(t, "gc", cni.GCNetworkList(t.Context(), list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "c2", IfName: "eth0"}}}))
			if version >= "1.1.0" {
				do = append(do, "gc")
			}
			checkCalls(t, a.take(), do, inode(ns.File()))
		})
	}
}

// What the agent installs, as the library finds it in the runtime's directories, works:
// entry, binary and versions fit each other.
func TestInstalled(t *testing.T) {
	testenv.Privileged(t)
	a, ns, dir := newAgent(t, nil), testenv.NewNetNS(t), t.TempDir()
	node := conflist.Node{
		ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), Plugin: build(t),
		Entry: conflist.Entry{Socket: a.socket, Timeout: "25s", Required: true},
	}
	for path, text := range map[string]string{
		filepath.Join(node.BinDir, "vendor"):              vendor,
		filepath.Join(node.ConfDir, "10-vendor.conflist"): `{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"vendor"}]}`,
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := node.Install(); err != nil {
		t.Fatal(err)
	}
	list, err := libcni.LoadNetworkConf(node.ConfDir, "pods")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("VENDOR_VERSION", "1.1.0")
	cni := libcni.NewCNIConfigWithCacheDir([]string{node.BinDir}, t.TempDir(), nil)
	pod := &libcni.RuntimeConf{ContainerID: "c1", NetNS: ns.Path(), IfName: "eth0", Args: [][2]string{{"K8S_POD_NAME", "web-1"}},
		CapabilityArgs: map[string]any{
			"dns":                               map[string]any{"Servers": []string{"192.0.2.53"}},
			"io.kubernetes.cri.pod-annotations": map[string]string{"dnsteer.dev/steer": "true"},
		}}
	add(t, cni, list, pod)
	must(t, "status", cni.GetStatusNetworkList(t.Context(), list))
	calls := a.take()
	checkCalls(t, calls, []string{"add", "status"}, inode(ns.File()))
	if len(calls) > 0 && calls[0].Attachment.Annotations["dnsteer.dev/steer"] != "true" {
		t.Errorf("add without annotations: %+v", calls[0])
	}
}

// Installer and plugin speak of the same versions.
func TestVersionsOfInstaller(t *testing.T) {
	if diff := cmp.Diff(supported().SupportedVersions(), conflist.Versions()); diff != "" {
		t.Errorf("(-plugin +installer):\n%s", diff)
	}
}

func checkCalls(t *testing.T, calls []call, want []string, namespace uint64) {
	t.Helper()
	var got []string
	for _, c := range calls {
		got = append(got, c.Do)
		if c.Do == "add" && (c.Inode != namespace || c.Attachment.Pod.Name != "web-1" || c.Attachment.DNS == nil) {
			t.Errorf("add of %+v", c)
		}
		if c.Do == "gc" && !cmp.Equal(c.Valid, []cnirpc.ID{{ContainerID: "c2", IfName: "eth0"}}) {
			t.Errorf("gc of %+v", c)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// add returns the result as the runtime sees it.
func add(t *testing.T, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, pod *libcni.RuntimeConf) map[string]any {
	t.Helper()
	result, err := cni.AddNetworkList(context.Background(), list, pod)
	if err != nil {
		t.Fatalf("add: %v", err)
	}
	text, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func confList(t *testing.T, version, more string) *libcni.NetworkConfigList {
	t.Helper()
	text := fmt.Sprintf(`{"cniVersion":%q,"name":"pods","plugins":[{"type":"vendor"}%s]}`, version, more)
	list, err := libcni.NetworkConfFromBytes([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return list
}
