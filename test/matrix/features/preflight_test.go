// SPDX-License-Identifier: Apache-2.0

package features

import (
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// What "dnsteer check" says here: one attribute for each kind of check, and for each
// that is not fine its line. On a kernel that the matrix tries, nothing may be in the
// way of loading.
func TestPreflight(t *testing.T) {
	testenv.Privileged(t)
	opts := loader.Options{Cgroup: testenv.NewCgroup(t).Path, BPFFS: testenv.BPFFS(t)}
	findings := loader.Preflight(opts)
	if len(findings) == 0 {
		t.Fatal("Preflight looked at nothing")
	}
	for _, f := range findings {
		key := strings.ReplaceAll(f.Check, " ", "_")
		t.Attr("check."+key, f.Severity.String())
		if f.Severity != loader.OK {
			t.Attr("says."+key, strings.ReplaceAll(f.String(), "\n", " "))
		}
		if f.Severity == loader.Failure {
			t.Errorf("%s", f)
		}
	}
}
