// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Steer is the name of the annotation of pods, and of the label of namespaces, that says
// "true" or "false".
const Steer = "dnsteer.dev/steer"

// Pod is what policy asks of a pod.
type Pod struct {
	UID, Namespace, Name string
	// Steer is the pod's annotation, NamespaceSteer the label of its namespace. Empty:
	// nobody said anything.
	Steer, NamespaceSteer string
	// DNS tells that it is one of the cluster's nameservers.
	DNS bool
	// Resolver is the pod's annotation of that name. Where nobody wrote one, pods of
	// Istio, with a sidecar or in ambient mode, have "pod".
	Resolver string
}

// Resolver is the annotation of pods that says whose resolver answers: "node" or "pod".
const Resolver = "dnsteer.dev/resolver"

// Annotations of pods that may have a resolver of their own on the target's port.
const (
	istioSidecar = "sidecar.istio.io/status"
	istioAmbient = "ambient.istio.io/redirection" // "enabled"
)

// configHash is where the mirror of a static pod has the UID that the kubelet knows the
// pod by.
const configHash = "kubernetes.io/config.hash"

// The kinds that are watched.
var (
	pods       = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	daemonSets = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
)

// The index of pods by UID, the kubelet's for static ones.
const byUID = "uid"

func indexUID(object any) ([]string, error) {
	m, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return nil, nil
	}
	if hash := m.Annotations[configHash]; hash != "" {
		return []string{string(m.UID), hash}, nil
	}
	return []string{string(m.UID)}, nil
}

// keep drops what nobody asks for before it is stored: a node's pods may have kilobytes
// of annotations each.
func keep(object any) (any, error) {
	m, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return object, nil
	}
	annotations := make(map[string]string)
	for _, key := range []string{Steer, Resolver, configHash} {
		if value, ok := m.Annotations[key]; ok {
			annotations[key] = value
		}
	}
	if _, sidecar := m.Annotations[istioSidecar]; annotations[Resolver] == "" && (sidecar || m.Annotations[istioAmbient] == "enabled") {
		annotations[Resolver] = "pod"
	}
	m.Annotations, m.ManagedFields = annotations, nil
	return m, nil
}

// newPod reads a pod that is stored.
func newPod(m *metav1.PartialObjectMetadata, dns labels.Selector) Pod {
	return Pod{
		UID: string(m.UID), Namespace: m.Namespace, Name: m.Name,
		Steer: m.Annotations[Steer], Resolver: m.Annotations[Resolver], DNS: dns.Matches(labels.Set(m.Labels)),
	}
}
