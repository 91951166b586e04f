// SPDX-License-Identifier: Apache-2.0

// Package cluster runs whole Kubernetes clusters for tests: etcd, kube-apiserver,
// kube-controller-manager and kube-scheduler; on each node kubelet, kube-proxy,
// containerd, runc and a chain of CNI plugins; CoreDNS as the cluster's DNS.
//
//	func TestMain(m *testing.M) { cluster.Main(m) }
//
//	func TestPods(t *testing.T) {
//		c := cluster.New(t, cluster.Hybrid, cluster.Containerd(), 1)
//		c.Apply(manifest)
//		...
//	}
//
// # Words
//
//	lab    where the test itself runs: namespaces of its own for processes, mounts
//	       and the network, so that a cluster can neither reach nor harm the machine,
//	       and all of it dies with one process
//	node   a machine of the cluster: namespaces of its own below the lab's, and a
//	       cgroup of its own in every hierarchy, which it sees as the root
//	shape  how cgroups are mounted on a node: Hybrid (v1, and v2 beside it) or Unified
//
// # The network
//
//	lab 10.200.0.1 ──┬── n1 10.200.0.11, pods 10.88.1.0/24   the control plane is here
//	 (nameserver)    └── n2 10.200.0.12, pods 10.88.2.0/24
//	services 10.96.0.0/16, the cluster's DNS 10.96.0.10
//
// The next cluster of a run has 10.200.1.0/24, and pods in 10.88.11.0/24 and 10.88.12.0/24.
// Services are each cluster's own: nobody but its nodes has a way to them.
//
// # Invariants
//
//   - Whatever a test waits for is bounded, and says what it waited for.
//   - The machine's mounts, routes, rules and sysctls stay as they are. Only cgroups
//     called dnsteer-lab-PID-* appear, without limits, and go with the lab.
//   - Nothing is downloaded: images are made of files of this machine, by package
//     deploy/oci, and put into containerd by hand.
//   - Logs are in .cache/lab until the next run.
package cluster
