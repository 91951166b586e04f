// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// commandTimeout bounds one client; its own patience ends earlier, see resolvConf.
const commandTimeout = 15 * time.Second

// Start starts a process in World.Client, and in whatever else is under test.
type Start func(tb testing.TB, cmd *exec.Cmd)

// Check puts every question to every client, each started by start, and compares
// the answers with what they must be.
func Check(t *testing.T, start Start) {
	t.Helper()
	check(t, Questions(), start)
}

func check(t *testing.T, questions []Question, start Start) {
	t.Helper()
	for _, c := range clients() {
		t.Run(c.name, func(t *testing.T) {
			ask := c.prepare(t)
			for _, q := range questions {
				if q.Kind == Text && c.noText != "" {
					continue
				}
				t.Run(q.Name, func(t *testing.T) {
					outputs := run(t, ask(t, q), start)
					if diff := cmp.Diff(q.Want, c.parse(outputs)); diff != "" {
						t.Errorf("answer (-want +got):\n%s\n%+v", diff, outputs)
					}
				})
			}
		})
	}
}

// run runs the commands one after the other. An exit code is part of the output;
// not to run at all is a failure.
func run(t *testing.T, commands []*exec.Cmd, start Start) []output {
	t.Helper()
	var outputs []output
	for _, cmd := range commands {
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		start(t, cmd)
		ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		stop()
		cancel()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatalf("run %s: %v", cmd, err)
		}
		if !cmd.ProcessState.Exited() || cmd.ProcessState.ExitCode() == 125 {
			t.Fatalf("run %s: %v: %s", cmd, cmd.ProcessState, &stderr)
		}
		outputs = append(outputs, output{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()})
	}
	return outputs
}
