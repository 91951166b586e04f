// SPDX-License-Identifier: Apache-2.0

package kube

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// What the Multi-Cluster Services API calls things (KEP-1645).
const (
	importGroup = "multicluster.x-k8s.io"
	// ImportVersion is the one that every implementation serves.
	ImportVersion = "v1alpha1"
	// ImportZone is where its names are.
	ImportZone = "clusterset.local"

	importHeadless = "Headless"
	labelImport    = "multicluster.kubernetes.io/service-name"
	labelFrom      = "multicluster.kubernetes.io/source-cluster"
)

// serviceImport is what we read of a ServiceImport; all versions agree on it.
type serviceImport struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Type  string       `json:"type"`
		IPs   []string     `json:"ips"`
		Ports []importPort `json:"ports"`
	} `json:"spec"`
}

type importPort struct {
	Name     string          `json:"name"`
	Protocol corev1.Protocol `json:"protocol"`
	Port     int32           `json:"port"`
}

// DeepCopyObject implements runtime.Object.
func (o *serviceImport) DeepCopyObject() runtime.Object {
	c := *o
	c.ObjectMeta = *o.ObjectMeta.DeepCopy()
	return &c // nobody writes to its lists
}

type serviceImportList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []serviceImport `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *serviceImportList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = append([]serviceImport(nil), l.Items...)
	return &c
}

// addImports makes a scheme know ServiceImports.
func addImports(scheme *runtime.Scheme, version string) {
	group := schema.GroupVersion{Group: importGroup, Version: version}
	scheme.AddKnownTypeWithName(group.WithKind("ServiceImport"), new(serviceImport))
	scheme.AddKnownTypeWithName(group.WithKind("ServiceImportList"), new(serviceImportList))
	metav1.AddToGroupVersion(scheme, group)
}

// newImport takes from a ServiceImport what DNS needs.
func newImport(o *serviceImport) *service {
	s := &service{headless: o.Spec.Type == importHeadless}
	if !s.headless {
		s.addrs = parseAddrs(o.Spec.IPs)
	}
	for _, p := range o.Spec.Ports {
		s.ports = appendPort(s.ports, p.Name, string(p.Protocol), p.Port)
	}
	return s
}
