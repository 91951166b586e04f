// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/dnsteer/dnsteer/test/kube"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// startTimeout bounds the start of a daemon, and that of a pod, on a machine that
	// has much else to do. Alone, all of a cluster takes 20 s.
	startTimeout = 3 * time.Minute
	apiPort      = 6443
)

// OutsideName is a name that the lab's nameserver knows, and OutsideAddr its address:
// pods learn it from the cluster's DNS, which asks there.
const (
	OutsideName = "outside.example.net"
	OutsideAddr = "198.51.100.1"
)

// Cluster is a Kubernetes cluster. Its control plane is on the first node.
type Cluster struct {
	*kube.ControlPlane
	Nodes []*Node

	tb     testing.TB
	logs   string
	images []string
}

// New runs a cluster until the test ends, and returns when its nodes and its DNS are
// ready. Several may run at once.
func New(tb testing.TB, shape Shape, r Runtime, nodes int) *Cluster {
	tb.Helper()
	began := time.Now()
	c := &Cluster{tb: tb, logs: logDir(tb)}
	c.images = images.Get(tb, func(dir string) []string { return makeImages(tb, dir) })
	w := newNetwork(tb)
	for i := range nodes {
		n := newNode(tb, w, i+1, shape, c.logs)
		n.runtime = r
		c.Nodes = append(c.Nodes, n)
	}
	c.Nodes[0].RunNameserver()
	c.startControl()
	for _, n := range c.Nodes {
		c.startNode(n)
	}
	c.await("nodes", "wait", "--for=condition=Ready", "node", "--all", "--timeout=2s")
	c.await("the account of pods", "get", "serviceaccount", "default")
	c.Apply(dnsManifest)
	c.await("cluster DNS", "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=2s")
	tb.Logf("cluster of %d nodes (%s) ready after %v; logs in %s", nodes, shape, time.Since(began).Round(100*time.Millisecond), c.logs)
	return c
}

// For returns the same cluster, reporting to tb, as a subtest needs it.
func (c *Cluster) For(tb testing.TB) *Cluster {
	other := *c
	other.tb = tb
	other.ControlPlane = c.ControlPlane.For(tb)
	other.Nodes = nil
	for _, n := range c.Nodes {
		other.Nodes = append(other.Nodes, n.For(tb))
	}
	return &other
}

// logDir is .cache/lab, emptied by the first cluster of a run.
func logDir(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join(kube.Dir(tb), "..", "lab", tb.Name())
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		tb.Fatalf("make directory for logs: %v", err)
	}
	if dir, err := filepath.Abs(dir); err == nil {
		return dir
	}
	return dir
}

// RunNameserver runs, at the node's Gateway, where the cluster's DNS asks about the rest
// of the world. It knows OutsideName, and that nothing else exists.
func (n *Node) RunNameserver() {
	n.tb.Helper()
	zone := "$TTL 300\n. SOA ns.invalid. admin.invalid. 1 3600 600 86400 60\n. NS ns.invalid.\n" +
		OutsideName + ". A " + OutsideAddr + "\n"
	testenv.NSD(n.tb, testenv.CurrentNetNS(n.tb), []netip.AddrPort{netip.AddrPortFrom(n.Gateway, 53)}, map[string]string{".": zone})
}

func (c *Cluster) startControl() {
	c.tb.Helper()
	first := c.Nodes[0]
	c.ControlPlane = kube.StartAt(c.tb, kube.Site{Addr: net.IP(first.Addr.AsSlice()), Port: apiPort, Place: first.Place, Logs: first.logs})
	first.run("kube-controller-manager", "--kubeconfig="+c.KubeconfigOf("kube-controller-manager"), "--leader-elect=false",
		"--service-account-private-key-file="+c.PKI.File("sa.key"), "--root-ca-file="+c.PKI.File("ca.crt"),
		"--use-service-account-credentials=true", "--bind-address=127.0.0.1")
	first.run("kube-scheduler", "--kubeconfig="+c.KubeconfigOf("kube-scheduler"), "--leader-elect=false", "--bind-address=127.0.0.1")
}

func (c *Cluster) startNode(n *Node) {
	c.tb.Helper()
	n.startRuntime()
	for _, image := range c.images {
		n.Load(image)
	}
	n.join(c.ControlPlane)
	route := &netlink.Route{Dst: ipNet(n.Pods), Gw: n.Addr.AsSlice()}
	if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, fs.ErrExist) {
		c.tb.Fatalf("make route to pods: %v", err)
	}
	for _, other := range c.Nodes {
		if other != n {
			n.route(other)
		}
	}
}

// await repeats a kubectl that waits, until it succeeds. It fails the test at once if
// a daemon of the cluster has ended.
func (c *Cluster) await(what string, args ...string) {
	c.tb.Helper()
	testenv.Eventually(c.tb, startTimeout, func() error {
		for _, n := range c.Nodes {
			if err := n.alive(); err != nil {
				c.tb.Fatal(err)
			}
		}
		if _, err := c.TryKubectl(args...); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		return nil
	})
}

// dnsManifest is the usual configuration of CoreDNS, but for its sockets: the receive buffer
// of one is full after half a second that a busy machine gives it no turn, and then it is
// CoreDNS that loses queries. As it is, they wait for some seconds.
const dnsManifest = `apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: system:coredns}
rules:
- {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: system:coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}
subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    .:53 {
        multisocket 16
        errors
        health
        ready
        kubernetes cluster.local in-addr.arpa ip6.arpa {
            pods insecure
            fallthrough in-addr.arpa ip6.arpa
            ttl 30
        }
        forward . /etc/resolv.conf
        cache 30
    }
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: coredns
        image: ` + dnsImage + `
        imagePullPolicy: Never
        args: [-conf, /etc/coredns/Corefile]
        readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
        volumeMounts: [{name: config, mountPath: /etc/coredns}]
      volumes: [{name: config, configMap: {name: coredns}}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: ` + DNSAddr + `
  selector: {k8s-app: kube-dns}
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
`
