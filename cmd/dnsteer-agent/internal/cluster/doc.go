// SPDX-License-Identifier: Apache-2.0

// Package cluster is what the agent knows of the cluster: the pods of its node, and the
// namespaces that say something about steering. It watches metadata alone: neither a
// pod's spec nor its status is ever asked for, and of the metadata a few words are kept.
//
// What is not known is not guessed: a pod that the API server has not told of yet is
// absent here, and the caller decides.
package cluster
