// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// Help is no mistake; a mistake is told from what goes wrong later.
func TestCommandLine(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		want string // in what it says; empty: no error
	}{
		{"help", []string{"-h"}, ""},
		{"no flag", []string{"-nothing"}, "not defined: -nothing"},
		{"argument", []string{"something"}, `unexpected argument "something"`},
		{"pods", []string{"-steer", "none"}, `-steer "none": say`},
		{"probe", []string{"-probe", "dead"}, `-probe "dead": say`},
		{"kubeconfig", []string{"-kubeconfig", "f"}, "-kubeconfig without -node"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stderr bytes.Buffer
			err := run(t.Context(), tc.args, &stderr)
			if tc.want == "" {
				if err != nil || !strings.Contains(stderr.String(), "-names") {
					t.Errorf("%v, and %q", err, stderr.String())
				}
				return
			}
			if !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
