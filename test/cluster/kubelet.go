// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"path/filepath"

	"github.com/dnsteer/dnsteer/test/kube"
)

const (
	// DNSAddr is the service address of the cluster's DNS.
	DNSAddr = "10.96.0.10"
	// Domain is the cluster's.
	Domain = "cluster.local"
)

// kubeletConfig. Cgroups of v1 are refused by default since 1.35; oomScoreAdj
// needs CAP_SYS_RESOURCE, see containerdConfig. The short periods make a test's
// waits short.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%s
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
oomScoreAdj: 0
authentication:
  anonymous: {enabled: true}
  webhook: {enabled: false}
authorization: {mode: AlwaysAllow}
clusterDNS: [%s]
clusterDomain: %s
resolvConf: %s
makeIPTablesUtilChains: false
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%, nodefs.inodesFree: 1%%}
imageGCHighThresholdPercent: 100
syncFrequency: 5s
nodeStatusUpdateFrequency: 5s
`

// proxyConfig leaves the machine's limits of conntrack alone.
const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
oomScoreAdj: 0
hostnameOverride: %s
clusterCIDR: 10.88.0.0/16
clientConnection: {kubeconfig: %q}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`

// join runs kubelet and kube-proxy on the node.
func (n *Node) join(c *kube.ControlPlane) {
	n.tb.Helper()
	resolvConf := filepath.Join(runDir, "resolv.conf")
	n.Write(resolvConf, fmt.Sprintf("nameserver %s\n", n.Gateway))
	config := filepath.Join(runDir, "kubelet.yaml")
	n.Write(config, fmt.Sprintf(kubeletConfig, socket, DNSAddr, Domain, resolvConf))
	n.run("kubelet", "--config="+config, "--kubeconfig="+c.KubeconfigOf(n.Name),
		"--hostname-override="+n.Name, "--node-ip="+n.Addr.String())
	config = filepath.Join(runDir, "kube-proxy.yaml")
	n.Write(config, fmt.Sprintf(proxyConfig, n.Name, c.KubeconfigOf("kube-proxy")))
	n.run("kube-proxy", "--config="+config)
}

// run runs a part of Kubernetes on the node.
func (n *Node) run(part string, args ...string) {
	n.tb.Helper()
	n.daemons = append(n.daemons, kube.Run(n.tb, part, n.logs, n.Place(kube.Command(n.tb, part, args...))))
}
