// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/oldkernel"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// TestOldKernel runs commands where the kernel lacks what dnsteer can do without.
func TestOldKernel(t *testing.T) {
	p := newPlace(t)
	for _, tc := range []struct {
		name         string
		mask         oldkernel.Mask
		capabilities string // of the resolver
	}{
		{"this kernel", oldkernel.Mask{}, "0000000000000000"},
		{"Linux 5.10", oldkernel.Without("unprivileged bpf", "SO_NETNS_COOKIE"), "0000008000000000"}, // CAP_BPF
		{"no links", oldkernel.Without("bpf_link"), "0000000000000000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := testenv.Command(t, roleAsk, nameserver.String(), tableName)
			p.Exec(t, cmd, "--fail-closed", "--hosts", writeHosts(t, "198.51.100.20"))
			var c *command
			tc.mask.Do(t, func() { c = start(t, p, cmd) })
			if got := resolverCapabilities(t, c.Process.Pid); got != tc.capabilities {
				t.Errorf("the resolver has capabilities %s, want %s", got, tc.capabilities)
			}
			if got := c.finish(t); !cmp.Equal(got, []string{"198.51.100.20"}) {
				t.Errorf("answers %v", got)
			}
			dnsteer.AssertGone(t, p, "")
		})
	}
}

// resolverCapabilities reads CapEff of the child of dnsteer that runs as UID 1337.
func resolverCapabilities(t *testing.T, pid int) string {
	t.Helper()
	for _, child := range dnsteer.Children(pid) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child))
		if err != nil {
			continue // ended
		}
		fields := make(map[string]string)
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.TrimSpace(value)
		}
		if strings.HasPrefix(fields["Uid"], fmt.Sprint(loader.DefaultOwner)+"\t") {
			return fields["CapEff"]
		}
	}
	t.Fatalf("dnsteer (%d) has no child with UID %d", pid, loader.DefaultOwner)
	return ""
}

// TestTooOldKernel: without all hooks nothing is attached, and the error names the first
// that is missing and the kernel to use.
func TestTooOldKernel(t *testing.T) {
	p := newPlace(t)
	for _, tc := range []struct{ version, missing string }{
		{"5.7", "hook getpeername4"},
		{"5.4", "hook getpeername4"},
		{"5.1", "hook recvmsg4"},
		{"4.17", "hook recvmsg4"},
	} {
		t.Run(tc.version, func(t *testing.T) {
			var code int
			var stdout, stderr string
			oldkernel.Linux(tc.version).Do(t, func() {
				cmd := p.Command(t, "exec", "--", "echo", "it ran")
				stdout, stderr = run(t, p, cmd)
				code = cmd.ProcessState.ExitCode()
			})
			if code != 1 || stdout != "" {
				t.Errorf("code %d, want 1; CMD printed %q", code, stdout)
			}
			for _, want := range []string{"(" + tc.missing + ": need in the kernel", "hint: use Linux 5.10 or newer"} {
				if !strings.Contains(stderr, want) {
					t.Errorf("no word of %q:\n%s", want, stderr)
				}
			}
			dnsteer.AssertGone(t, p, "")
		})
	}
}
