// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Servers for all names gather in one route; a suffix is given once.
func TestRoutes(t *testing.T) {
	var s settings
	for _, err := range []error{
		s.addUpstream("192.0.2.53"), s.addRoute("cluster2.example.org=192.0.2.5,192.0.2.6"), s.addUpstream("tls://192.0.2.54#dns.example.org"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	got, err := json.Marshal(s.routes)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"Suffix":".","Upstreams":["192.0.2.53:53","tls://192.0.2.54:853#dns.example.org"]},{"Suffix":"cluster2.example.org","Upstreams":["192.0.2.5:53","192.0.2.6:53"]}]`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	for v, want := range map[string]string{
		"Cluster2.example.org.=192.0.2.7": "Cluster2.example.org. has servers already: write them in one --route, with commas between",
		".=192.0.2.7":                     ". has servers already: write them in one --route, with commas between",
		"example.org":                     `route "example.org": want a suffix, =, and servers, such as cluster2.example.org=192.0.2.5,192.0.2.6`,
	} {
		if err := s.addRoute(v); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", v, err, want)
		}
	}
}

func TestPrefixes(t *testing.T) {
	var got []netip.Prefix
	add := prefixes(&got)
	for _, in := range []string{"192.0.2.53", "198.51.100.0/24,2001:db8::/32"} {
		if err := add(in); err != nil {
			t.Errorf("add %q: %v", in, err)
		}
	}
	want := []netip.Prefix{
		netip.MustParsePrefix("192.0.2.53/32"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32"),
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("prefixes (-want +got):\n%s", diff)
	}
	for _, in := range []string{"", "x", "192.0.2.0/33", "192.0.2.53,"} {
		if err := add(in); err == nil {
			t.Errorf("add %q: no error", in)
		}
	}
}

// runMain calls the program in-process and returns its exit code and output.
func runMain(args ...string) (code int, stdout, stderr string) {
	var out, errs strings.Builder
	code = run(context.Background(), env{args: args, stdout: &out, stderr: &errs, getenv: func(string) string { return "" }})
	return code, out.String(), errs.String()
}

// Every command has help that fits a screen, goes to stdout and exits 0.
func TestHelp(t *testing.T) {
	code, out, errs := runMain("-h")
	if code != 0 || errs != "" {
		t.Errorf("-h: exit %d, stderr %q", code, errs)
	}
	for _, c := range commands() {
		if c.hidden {
			continue
		}
		if !strings.Contains(out, "  "+c.name) {
			t.Errorf("-h does not mention %s", c.name)
		}
		code, help, errs := runMain(c.name, "-h")
		if code != 0 || errs != "" || !strings.HasPrefix(help, "Usage: dnsteer "+c.name) {
			t.Errorf("%s -h: exit %d, stdout %q, stderr %q", c.name, code, help, errs)
		}
		if lines := strings.Count(help, "\n"); lines > 44 {
			t.Errorf("%s -h has %d lines", c.name, lines)
		}
	}
}

// What was asked for and cannot be printed is an error.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"-h"}, {"version"}, {"run", "-h"}} {
		var errs strings.Builder
		code := run(t.Context(), env{args: args, stdout: full, stderr: &errs, getenv: os.Getenv})
		if code != exitFailed || errs.String() != "dnsteer: write /dev/full: no space left on device\n" {
			t.Errorf("dnsteer %q: exit %d, stderr %q", args, code, errs.String())
		}
	}
}

// A command line that makes no sense exits 2, says what is wrong, and points to help.
func TestUsageErrors(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, "Usage: dnsteer"},
		{[]string{"frob"}, `unknown command "frob"`},
		{[]string{"exec"}, "no command"},
		{[]string{"exec", "--frob", "--", "true"}, "flag provided but not defined: -frob"},
		{[]string{"exec", "--upstream", "x", "--", "true"}, "want an address such as"},
		{[]string{"exec", "--only", "x", "--", "true"}, "want an address or prefix"},
		{[]string{"run", "extra"}, `unexpected argument "extra"`},
		{[]string{"run", "--resolver", "mine"}, "want own or none"},
		{[]string{"run", "--resolver", "none", "--names", "f"}, "for our own resolver"},
		{[]string{"run", "--port", "70000"}, "want 1 to 65535"},
		{[]string{"run", "--hung-after", "-1s"}, "want a time, or 0"},
		{[]string{"exec", "--hung-after", "-1s", "--", "true"}, "want a time, or 0"},
		{[]string{"query"}, "want NAME"},
		{[]string{"query", "a", "A", "b"}, "want NAME"},
		{[]string{"version", "x"}, "unexpected argument"},
		{[]string{workerCommandName}, "only dnsteer itself starts it"},
	} {
		code, out, errs := runMain(tc.args...)
		if code != exitUsage || out != "" || !strings.Contains(errs, tc.want) {
			t.Errorf("dnsteer %q: exit %d, stdout %q, stderr %q, want exit 2 and %q", tc.args, code, out, errs, tc.want)
		}
		if tc.args != nil && !strings.Contains(errs, "hint: see 'dnsteer") {
			t.Errorf("dnsteer %q: no hint in %q", tc.args, errs)
		}
	}
}
