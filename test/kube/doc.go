// SPDX-License-Identifier: Apache-2.0

// Package kube runs a real etcd and kube-apiserver for a test, on loopback, in
// seconds:
//
//	func TestWatch(t *testing.T) {
//		cluster := kube.Start(t)
//		cluster.Apply(manifest)
//		... a client made of cluster.Kubeconfig ...
//	}
//
// Both are one binary, hyperkube, which "make kube" builds once. No controller
// runs: what nobody writes is not there, EndpointSlices and the default
// ServiceAccounts included. Nodes, pods and their DNS are test/e2e's.
//
// # Invariants
//
//   - Nothing listens beyond 127.0.0.1, and etcd on unix sockets alone.
//   - Authorization is Kubernetes' own (Node, RBAC). Kubeconfig is an administrator;
//     others get theirs by KubeconfigOf.
//   - Processes die with the test's, even if that is killed.
package kube
