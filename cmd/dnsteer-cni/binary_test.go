// SPDX-License-Identifier: Apache-2.0

package main

import (
	"debug/elf"
	"encoding/json"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// The plugin is executed for every pod: it must stay small, and know nothing that it
// could ask the agent.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("list imports: %v: %s", err, out)
	}
	const module = "github.com/dnsteer/dnsteer/"
	allowed := []string{module + "cmd/dnsteer-cni", module + "cmd/internal/cnirpc",
		"github.com/containernetworking/cni/pkg", "github.com/vishvananda/netns", "golang.org/x/sys/unix"}
	checked := 0
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		first, _, _ := strings.Cut(path, "/")
		if !strings.Contains(first, ".") { // the standard library's
			if slices.Contains([]string{"net/http", "crypto/tls", "os/exec", "testing"}, path) {
				t.Errorf("imports %s", path)
			}
			continue
		}
		checked++
		if !slices.ContainsFunc(allowed, func(a string) bool { return path == a || strings.HasPrefix(path, a+"/") }) {
			t.Errorf("imports %s", path)
		}
	}
	if checked < len(allowed) {
		t.Errorf("%d imports were checked, want at least %d", checked, len(allowed))
	}
}

// It runs on every node, whatever C library that has.
func TestStatic(t *testing.T) {
	f, err := elf.Open(build(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("has a segment %v: it is linked dynamically", p.Type)
		}
	}
}

// VERSION needs no configuration, and a person who calls the plugin is told what it is.
func TestVersion(t *testing.T) {
	binary := build(t)
	got := execute(t, binary, "", "CNI_COMMAND=VERSION")
	var v struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}
	if err := json.Unmarshal([]byte(got.Stdout), &v); err != nil || got.Failed {
		t.Fatalf("got %+v: %v", got, err)
	}
	if diff := cmp.Diff([]string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}, v.SupportedVersions); diff != "" || v.CNIVersion != "1.1.0" {
		t.Errorf("version %s (-want +got):\n%s", v.CNIVersion, diff)
	}
	got = execute(t, binary, "")
	if got.Stdout != "" || !strings.HasPrefix(got.Stderr, "dnsteer-cni ") {
		t.Errorf("without a command: %+v", got)
	}
}

// keys is what config has.
func TestKeys(t *testing.T) {
	var tags []string
	for field := range reflect.TypeFor[config]().Fields() {
		if tag := field.Tag.Get("json"); tag != "" {
			tags = append(tags, tag)
		}
	}
	known := keys()
	slices.Sort(tags)
	slices.Sort(known)
	if diff := cmp.Diff(tags, known); diff != "" {
		t.Errorf("keys (-config +keys):\n%s", diff)
	}
}

// BenchmarkAdd is what a pod's start pays: process, request and result.
func BenchmarkAdd(b *testing.B) {
	binary, ns, a := build(b), testenv.NewNetNS(b), newAgent(b, nil)
	in := stdin("1.1.0", a.socket, chained("1.1.0"))
	for b.Loop() {
		if got := execute(b, binary, in, environ("ADD", ns.Path())...); got.Failed {
			b.Fatalf("failed: %+v", got)
		}
	}
}

// BenchmarkProcess is what any program pays here: the one that does nothing.
func BenchmarkProcess(b *testing.B) {
	nothing := testenv.Binary(b, "true", "coreutils")
	for b.Loop() {
		if got := execute(b, nothing, ""); got.Failed {
			b.Fatal("failed")
		}
	}
}
