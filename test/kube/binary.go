// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Dir is where "make kube" leaves what it built: .cache/kube of this checkout.
func Dir(tb testing.TB) string {
	tb.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		tb.Fatal("find the checkout: the binary does not know its sources")
	}
	return filepath.Join(filepath.Dir(file), "..", "..", ".cache", "kube")
}

// Binary is the path of a program that "make kube" built. Without it the test
// fails and says so.
func Binary(tb testing.TB, name string) string {
	tb.Helper()
	path := filepath.Join(Dir(tb), name)
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("find %s: %v: run make kube", name, err)
	}
	return path
}

// Command is one part of Kubernetes, not yet started: "kubelet", "kubectl", "etcd".
func Command(tb testing.TB, part string, args ...string) *exec.Cmd {
	tb.Helper()
	return exec.Command(Binary(tb, "hyperkube"), append([]string{part}, args...)...)
}
