// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
)

// policy says which pods are steered when nobody says anything of them.
type policy struct {
	// all pods, or only those that are told to be.
	all bool
	// cluster tells that the API server is asked: of a pod that it has not told of,
	// nothing is assumed.
	cluster bool
	// node is the node's own network, which one before us may have steered.
	node bool
}

// decision is what policy makes of a pod, and why, for the status.
type decision struct {
	steer bool
	// foreign: the pod's own resolver answers, not the node's.
	foreign bool
	reason  string
}

// facts are what is known of a pod.
type facts struct {
	isNode bool // it is the node's own namespace
	// annotations are what the runtime told of the pod's.
	annotations map[string]string
	known       *cluster.Pod // nil: the API server has not told
}

// decide applies the rules; the first that matches holds. A value other than "true" and
// "false" says nothing.
func (p policy) decide(f facts) decision {
	if f.isNode {
		return decision{steer: p.node, reason: "the node's own network"}
	}
	if f.known != nil && f.known.DNS {
		return decision{reason: "DNS of the cluster"}
	}
	steer, resolver, label := f.annotations[cluster.Steer], f.annotations[cluster.Resolver], ""
	if f.known != nil { // newer than what the runtime told
		steer, resolver, label = f.known.Steer, f.known.Resolver, f.known.NamespaceSteer
	}
	d := decision{foreign: resolver == "pod"}
	switch {
	case isWord(steer):
		d.steer, d.reason = steer == "true", "annotation of the pod"
	case f.known == nil && p.cluster:
		d.reason = "not known to the API server yet"
	case isWord(label):
		d.steer, d.reason = label == "true", "label of the namespace"
	case p.all:
		d.steer, d.reason = true, "all pods"
	default:
		d.reason = "neither annotation nor label"
	}
	return d
}

func isWord(text string) bool { return text == "true" || text == "false" }
