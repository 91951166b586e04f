// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

const manifest = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: serviceimports.multicluster.x-k8s.io}
spec:
  group: multicluster.x-k8s.io
  scope: Namespaced
  names: {plural: serviceimports, singular: serviceimport, kind: ServiceImport, listKind: ServiceImportList}
  versions: [{name: v1alpha1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {ports: [{port: 80}]}
`

// What was written is there after the API server came back, custom resources
// included, and whoever has no rights has none.
func TestControlPlane(t *testing.T) {
	c := Start(t)
	c.Apply(manifest)
	c.Kubectl("wait", "--for=condition=Established", "crd/serviceimports.multicluster.x-k8s.io", "--timeout=20s")
	c.KillAPIServer()
	if err := c.Ready(); err == nil {
		t.Error("a killed API server is ready")
	}
	c.StartAPIServer()
	if out := c.Kubectl("get", "service,serviceimports", "-A", "-o", "name"); !strings.Contains(out, "service/web") {
		t.Errorf("services: %s", out)
	}
	node := Command(t, "kubectl", "--kubeconfig", c.KubeconfigOf("n1"), "create", "namespace", "nodes-may-not")
	if out, err := node.CombinedOutput(); err == nil || !strings.Contains(string(out), "forbidden") {
		t.Errorf("a node made a namespace: %v %s", err, out)
	}
}
