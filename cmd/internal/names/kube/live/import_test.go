// SPDX-License-Identifier: Apache-2.0

package live

import (
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
)

const importDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: serviceimports.multicluster.x-k8s.io
  annotations: {api-approved.kubernetes.io: "https://github.com/kubernetes/enhancements/pull/1649"}
spec:
  group: multicluster.x-k8s.io
  scope: Namespaced
  names: {plural: serviceimports, singular: serviceimport, kind: ServiceImport, listKind: ServiceImportList}
  versions: [{name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`

const imports = `
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: {name: ip, namespace: default}
spec: {type: ClusterSetIP, ips: [10.42.0.1, "2001:db8::1"], ports: [{name: http, protocol: TCP, port: 80}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: {name: pods, namespace: default}
spec: {type: Headless, ports: [{name: http, protocol: TCP, port: 80}]}
`

// ServiceImports of a clusterset, from before their kind is installed on (KEP-1645).
func TestServiceImports(t *testing.T) {
	p := newPlane(t)
	b := newBench(t, kube.Config{Imports: kube.ImportVersion})
	b.set(t, kube.Cluster{Name: "here", Local: true, Zones: []string{kube.ImportZone}, Reverse: true, Rest: p.config})
	b.log.Saw(t, patience, "kind=serviceimports", "does not have this kind")

	p.Apply(importDefinition)
	p.Kubectl("wait", "--for=condition=Established", "crd/serviceimports.multicluster.x-k8s.io", "--timeout=60s")
	p.Apply(imports)
	if origin := b.eventually(t, "ip.default.svc.clusterset.local", "A", "10.42.0.1"); origin != "table mcs here" {
		t.Errorf("origin %q", origin)
	}
	b.eventually(t, "ip.default.svc.clusterset.local", "AAAA", "2001:db8::1")
	b.eventually(t, "_http._tcp.ip.default.svc.clusterset.local", "SRV", "0 100 80 ip.default.svc.clusterset.local.")
	b.eventually(t, "1.0.42.10.in-addr.arpa", "PTR", "ip.default.svc.clusterset.local.")

	slice := func(from, addr string) {
		hostname, port, name := "pod-0", int32(80), "http"
		p.write(t, p.discover, "endpointslices", &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pods-" + from, Labels: map[string]string{
				"multicluster.kubernetes.io/service-name": "pods", "multicluster.kubernetes.io/source-cluster": from}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{addr}, Hostname: &hostname}},
		})
	}
	slice("east", "192.0.2.1")
	slice("west", "192.0.2.2")
	b.eventually(t, "pods.default.svc.clusterset.local", "A", "192.0.2.1", "192.0.2.2")
	b.eventually(t, "pod-0.east.pods.default.svc.clusterset.local", "A", "192.0.2.1")
	b.eventually(t, "_http._tcp.pods.default.svc.clusterset.local", "SRV",
		"0 100 80 pod-0.east.pods.default.svc.clusterset.local.", "0 100 80 pod-0.west.pods.default.svc.clusterset.local.")
	p.remove(t, p.discover, "endpointslices", "pods-east")
	b.eventually(t, "pods.default.svc.clusterset.local", "A", "192.0.2.2")
	b.eventually(t, "pod-0.east.pods.default.svc.clusterset.local", "A", "SERVFAIL")
	p.Kubectl("delete", "serviceimport", "ip")
	b.eventually(t, "ip.default.svc.clusterset.local", "A", "SERVFAIL")
}
