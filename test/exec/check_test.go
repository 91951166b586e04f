// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/oldkernel"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// finding is a line of "dnsteer check --json".
type finding struct{ Check, Need, Have, Remedy, Severity string }

// TestCheckOnOldKernel: every part of the kernel that is missing has one finding, which
// names the kernel to use; it is a failure if dnsteer cannot do without. What cannot work
// leaves nothing, whichever command tried.
func TestCheckOnOldKernel(t *testing.T) {
	getpeername, recvmsg := []string{"hook getpeername4", "hook getpeername6"}, []string{"hook recvmsg4", "hook recvmsg6"}
	sendmsg := []string{"hook sendmsg4", "hook sendmsg6"}
	p := newPlace(t)
	bpffs := testenv.BPFFS(t)
	for _, tc := range []struct {
		name               string
		mask               oldkernel.Mask
		failures, warnings []string
	}{
		{"this kernel", oldkernel.Mask{}, nil, nil},
		{"no getpeername", oldkernel.Without("getpeername"), getpeername, nil},
		{"no recvmsg", oldkernel.Without("recvmsg"), recvmsg, nil},
		{"no sendmsg", oldkernel.Without("sendmsg"), sendmsg, nil},
		{"no link", oldkernel.Without("bpf_link"), nil, []string{"bpf_link"}},
		{"no pidfd_getfd", oldkernel.Without("pidfd_getfd"), nil, []string{"pidfd_getfd"}},
		{"no unprivileged bpf", oldkernel.Without("unprivileged bpf"), nil, []string{"unprivileged bpf"}},
		{"Linux 5.7", oldkernel.Linux("5.7"), getpeername, []string{"namespace cookie", "unprivileged bpf"}},
		{"Linux 5.4", oldkernel.Linux("5.4"), slices.Concat(getpeername, []string{"helpers"}), []string{"bpf_link", "namespace cookie", "pidfd_getfd", "unprivileged bpf"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			place := []string{"--cgroup", p.Cgroup.Path, "--bpffs", bpffs}
			var found []finding
			under := func(args ...string) (code int, stdout, stderr string) {
				tc.mask.Do(t, func() {
					cmd := p.Command(t, args...)
					stdout, stderr = run(t, p, cmd)
					code = cmd.ProcessState.ExitCode()
				})
				return code, stdout, stderr
			}
			code, stdout, stderr := under(append([]string{"check", "--json"}, place...)...)
			if err := json.Unmarshal([]byte(stdout), &found); err != nil {
				t.Fatalf("check: %v: %s%s", err, stdout, stderr)
			}
			got := map[string][]string{}
			for _, f := range found {
				if f.Severity == "ok" || f.Check == "conntrack" {
					continue
				}
				got[f.Severity] = append(got[f.Severity], f.Check)
				if f.Need == "" || f.Have == "" || !strings.Contains(f.Remedy, "Linux 5.") {
					t.Errorf("incomplete: %+v", f)
				}
			}
			slices.Sort(got["warning"])
			want := map[string][]string{}
			wantCode := 0
			if len(tc.failures) > 0 {
				want["failure"], wantCode = tc.failures, 1
			}
			if len(tc.warnings) > 0 {
				want["warning"] = tc.warnings
			}
			if diff := cmp.Diff(want, got); diff != "" || code != wantCode {
				t.Errorf("exit code %d, want %d, findings (-want +got):\n%s", code, wantCode, diff)
			}
			code, stdout, _ = under(append([]string{"check"}, place...)...)
			for _, check := range tc.failures {
				if n := countLines(stdout, "failure", check); n != 1 || code != 1 {
					t.Errorf("%d lines of %s, exit code %d:\n%s", n, check, code, stdout)
				}
			}
			if wantCode == 0 {
				return
			}
			for _, args := range [][]string{append([]string{"load"}, place...), append([]string{"run"}, place...), {"exec", "--", "true"}} {
				code, _, stderr := under(args...)
				if code != 1 || !strings.Contains(stderr, "("+tc.failures[0]+": need ") || !strings.Contains(stderr, "hint: use Linux 5.") {
					t.Errorf("%s: exit code %d: %s", args[0], code, stderr)
				}
				for _, check := range tc.failures[1:] { // a line each, with the remedy
					if !strings.Contains(stderr, "dnsteer: "+check+": need ") || strings.Count(stderr, "use Linux 5.") < len(tc.failures) {
						t.Errorf("%s: no line of %s:\n%s", args[0], check, stderr)
					}
				}
				dnsteer.AssertGone(t, p, bpffs)
			}
		})
	}
}

// countLines counts the lines that begin with these words.
func countLines(text, severity, check string) (n int) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.Join(strings.Fields(line), " "), severity+" "+check+" ") {
			n++
		}
	}
	return n
}
