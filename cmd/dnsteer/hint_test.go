// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
)

// TestNoHint is about errors that say all themselves: a hint at something else misleads.
func TestNoHint(t *testing.T) {
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"query", "www.example.org", "NONSENSE"}, exitFailed, `dnsteer: "NONSENSE" is not a record type` + "\n"},
		{[]string{"query", "www..example.org"}, exitFailed, `dnsteer: "www..example.org" is not a domain name` + "\n"},
		{[]string{"exec", "--", "/dev/null"}, exitCannotRun, `dnsteer: run "/dev/null": exec: "/dev/null": permission denied` + "\n"},
	} {
		var stderr bytes.Buffer
		code := run(context.Background(), env{args: tc.args, stdout: io.Discard, stderr: &stderr})
		if code != tc.code || stderr.String() != tc.want {
			t.Errorf("%s: exit code %d and %q, want %d and %q", strings.Join(tc.args, " "), code, &stderr, tc.code, tc.want)
		}
	}
}
