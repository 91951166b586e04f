// SPDX-License-Identifier: Apache-2.0

package features

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// What "dnsteer check" says here: one attribute for each kind of check, and for each
// that is not fine its line. And whether the datapath loads, which it does if and only if
// there is no failure among them.
func TestPreflight(t *testing.T) {
	testenv.Privileged(t)
	opts := loader.Options{Cgroup: testenv.NewCgroup(t).Path, BPFFS: testenv.BPFFS(t)}
	findings := loader.Preflight(opts)
	if len(findings) == 0 {
		t.Fatal("Preflight looked at nothing")
	}
	var failures []loader.Finding
	for _, f := range findings {
		key := strings.ReplaceAll(f.Check, " ", "_")
		t.Attr("check."+key, f.Severity.String())
		if f.Severity != loader.OK {
			t.Attr("says."+key, strings.ReplaceAll(f.String(), "\n", " "))
		}
		if f.Severity == loader.Failure {
			failures = append(failures, f)
		}
	}
	d, err := loader.Load(opts)
	if err == nil {
		d.Close()
		err = loader.Unload(opts, 0)
		if len(failures) > 0 || err != nil {
			t.Errorf("loaded in spite of %v, unloaded: %v", failures, err)
		}
		t.Attr("load", yes)
		return
	}
	t.Attr("load", no)
	var explained *loader.PreflightError
	if !errors.As(err, &explained) {
		t.Fatalf("load: %v, want to be told why", err)
	}
	if diff := cmp.Diff(failures, explained.Findings); diff != "" {
		t.Errorf("reasons of %v (-check +load):\n%s", err, diff)
	}
	nothingIsLeft(t, opts)
}

// nothingIsLeft fails the test if a load that was refused has left a program or a pin.
func nothingIsLeft(t *testing.T, opts loader.Options) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(opts.BPFFS, "dnsteer")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
	dir, err := os.Open(opts.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, h := range hooks {
		// A kernel that lacks the hook, or a mask, has nothing on it either.
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: h.attach})
		if err == nil && len(found.Programs) > 0 {
			t.Errorf("%d programs are left on %s", len(found.Programs), h.name)
		}
	}
}
