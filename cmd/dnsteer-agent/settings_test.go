// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
			var stdout, stderr bytes.Buffer
			err := run(t.Context(), tc.args, &stdout, &stderr)
			if tc.want == "" {
				if err != nil || !strings.Contains(stdout.String(), "-names") || stderr.Len() > 0 {
					t.Errorf("%v, %q and %q", err, stdout.String(), stderr.String())
				}
				return
			}
			if !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Help that cannot be printed is an error, but no mistake.
func TestHelpToFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if err := run(t.Context(), []string{"-h"}, full, io.Discard); !errors.Is(err, unix.ENOSPC) || errors.As(err, new(usageError)) {
		t.Errorf("got %v", err)
	}
}
