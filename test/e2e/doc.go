// SPDX-License-Identifier: Apache-2.0

// Package e2e has no code but tests: dnsteer on a real Kubernetes (package cluster),
// installed by kubectl apply -k deploy/, seen from pods.
//
//	make deps-e2e kube   # once
//	make e2e
package e2e
