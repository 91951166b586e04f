// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/test/cluster"
	"github.com/dnsteer/dnsteer/test/kube"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// mains are plugins that give a pod its interface.
var mains = map[string]string{
	"bridge": `"type": "bridge", "bridge": "cni0", "isGateway": true`,
	"ptp":    `"type": "ptp"`,
}

// chain is a conflist of the reference plugins.
const chain = `{"cniVersion": %q, "name": "pods", "plugins": [
 {%s, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}
]}
`

// Behind the reference plugins, in every version of the specification, cnitool drives
// the plugin that the agent installed: what is added is steered, what is deleted is not.
func TestCNITool(t *testing.T) {
	t.Parallel()
	n := cluster.NewNode(t, cluster.Hybrid)
	n.RunNameserver()
	n.Write("/etc/resolv.conf", fmt.Sprintf("nameserver %s\n", n.Gateway))
	n.Write("/etc/dnsteer/names.yaml", fmt.Sprintf("names: {%s: [%s]}\n", tableName, tableAddr))
	bin := binaries(t)
	for main, config := range mains {
		for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
			t.Run(main+"/"+version, func(t *testing.T) {
				n := n.For(t)
				n.Write(conflistPath, fmt.Sprintf(chain, version, config))
				agent := kube.Run(t, "dnsteer-agent", t.TempDir(), n.Command(filepath.Join(bin, "dnsteer-agent"),
					"-names", "/etc/dnsteer/names.yaml", "-cni-plugin", filepath.Join(bin, "dnsteer-cni")))
				testenv.Eventually(t, settleTimeout, func() error {
					if err := agent.Alive(); err != nil {
						t.Fatalf("%v:\n%s", err, agent.Tail())
					}
					if !strings.Contains(n.Read(conflistPath), `"dnsteer-cni"`) {
						return fmt.Errorf("the plugin is not in the conflist; the agent's log:\n%s", agent.Tail())
					}
					return nil
				})
				cnitool(t, n, version)
			})
		}
	}
}

// cnitool adds, checks and deletes a namespace, and looks a name of the table up in it.
// Its loopback interface is down, as it may still be in a pod: runtimes bring it up
// while the plugins run.
func cnitool(t *testing.T, n *cluster.Node, version string) {
	t.Helper()
	const ns = "/run/netns/pod"
	n.Run("ip", "netns", "add", "pod")
	defer n.Run("ip", "netns", "delete", "pod")
	tool := func(command string) string {
		t.Helper()
		return n.Run("env", "NETCONFPATH=/etc/cni/net.d", "CNI_PATH=/opt/cni/bin", kube.Binary(t, "cnitool"), command, "pods", ns)
	}
	lookup := func() string {
		t.Helper()
		out, _ := n.Command("nsenter", "--net="+ns, "getent", "ahostsv4", tableName).CombinedOutput()
		return string(out)
	}
	defer func() { _, _ = tool("del"), tool("del") }() // the second as runtimes send it
	added := tool("add")
	if !strings.Contains(added, "10.88.1.") {
		t.Errorf("add: %s", added)
	}
	if out := lookup(); !slices.Contains(strings.Fields(out), tableAddr) {
		t.Errorf("added, %s is %q; add said\n%s", tableName, out, added)
	}
	if version >= "0.4.0" {
		tool("check")
	}
	if version >= "1.1.0" {
		tool("status")
	}
	tool("del")
	if out := lookup(); out != "" {
		t.Errorf("deleted, %s is %q", tableName, out)
	}
}
