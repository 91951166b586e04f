// SPDX-License-Identifier: Apache-2.0

// Package cnirpc is what dnsteer-cni and dnsteer-agent say to each other: one request
// and one response on a connection of a unix socket, each a JSON object with its
// length in front, the request with the pod's network namespace as a descriptor.
//
// The agent lives in a container and sees other paths than the runtime; a descriptor
// means the same to both, and cannot be replaced on the way.
//
// The package knows nothing of CNI's libraries, Kubernetes or BPF: the plugin imports it.
package cnirpc
