// SPDX-License-Identifier: Apache-2.0

// Package arch checks the architecture that the folder listing promises: which
// package may know of which.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dnsteer/dnsteer"

// goPackage is what "go list" says of a package, without its tests.
type goPackage struct {
	ImportPath string
	Name       string
	Doc        string
	Imports    []string
}

// Each rule forbids the packages below some paths, with exceptions, to import others.
var rules = []struct {
	name   string
	of     []string // import paths below the module; "" is all of it
	except []string
	forbid []string
}{
	{"loader and resolver meet in cmd", []string{"loader", "bpf"}, nil, []string{module + "/resolver", module + "/cmd"}},
	{"the resolver knows no BPF", []string{"resolver"}, nil, []string{"github.com/cilium/ebpf", module + "/loader", module + "/bpf", module + "/cmd"}},
	{"DNS lives in resolver", []string{""}, []string{"resolver", "test"}, []string{"github.com/miekg/dns"}},
	{"only loader imports bpf", []string{""}, []string{"loader", "bpf", "test"}, []string{module + "/bpf"}},
	{"only tests import test", []string{""}, []string{"test"}, []string{module + "/test", "testing"}},
	{"no processes but in cmd", []string{"loader", "resolver", "bpf"}, nil, []string{"os/exec"}},
	{"no Kubernetes in loader and resolver", []string{"loader", "resolver", "bpf"}, nil, []string{"k8s.io"}},
	{"no reflection in resolver", []string{"resolver"}, nil, []string{"reflect"}},
	// recvmmsg and sendmmsg without allocations are in no package that we may use; its
	// doc.go says more.
	{"no unsafe in resolver but for batches of datagrams", []string{"resolver"}, []string{"resolver/internal/mmsg"}, []string{"unsafe"}},
	// The agent speaks to istiod by hand; doc.go there says why.
	{"gRPC and Envoy's xDS are for tests", []string{""}, []string{"test"}, []string{"google.golang.org/grpc", "github.com/envoyproxy"}},
	{"protocol buffers are for istiod", []string{""}, []string{"cmd/internal/names/istio", "test"}, []string{"google.golang.org/protobuf"}},
	{"sources of names are the agent's", []string{""}, []string{"cmd/dnsteer-agent", "cmd/internal/names"}, []string{module + "/cmd/internal/names"}},
	{"batches of datagrams know no DNS", []string{"resolver/internal/mmsg"}, nil, []string{"github.com/miekg/dns", module + "/resolver"}},
}

func TestImports(t *testing.T) {
	packages := list(t)
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			checked := 0
			for _, p := range packages {
				if !belowAny(p.ImportPath, rule.of) || belowAny(p.ImportPath, rule.except) {
					continue
				}
				checked++
				for _, imported := range p.Imports {
					if slices.ContainsFunc(rule.forbid, func(f string) bool { return imported == f || strings.HasPrefix(imported, f+"/") }) {
						t.Errorf("%s imports %s", p.ImportPath, imported)
					}
				}
			}
			if checked == 0 {
				t.Error("the rule applies to no package")
			}
		})
	}
}

// Every package says what it is for.
func TestPackageDocs(t *testing.T) {
	for _, p := range list(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// belowAny tells whether an import path is one of paths below the module, or below it.
func belowAny(importPath string, paths []string) bool {
	return slices.ContainsFunc(paths, func(p string) bool {
		full := strings.TrimSuffix(module+"/"+p, "/")
		return importPath == full || strings.HasPrefix(importPath, full+"/")
	})
}

func list(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports", module+"/...").Output()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	var packages []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatalf("read package list: %v", err)
		}
		if p.Name != "" && len(p.Imports) > 0 {
			packages = append(packages, p)
		}
	}
}
