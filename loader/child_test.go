// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// child is a querier seen from the test.
type child struct {
	cmd *exec.Cmd
	in  io.Writer
	out *json.Decoder
}

// startQuerier starts a querier in the cgroup and the client namespace.
func (w *world) startQuerier(t *testing.T, s shape) *child {
	t.Helper()
	return startQuerierIn(t, w.client, w.cgroup, s)
}

func startQuerierIn(t *testing.T, ns *testenv.NetNS, cgroup *testenv.Cgroup, s shape) *child {
	t.Helper()
	arg, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := testenv.Command(t, "query", string(arg))
	cgroup.Enter(cmd)
	c := pipe(t, cmd)
	ns.For(t).Start(cmd)
	return c
}

// pipe prepares a command that talks over standard input and output.
func pipe(t *testing.T, cmd *exec.Cmd) *child {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	return &child{cmd: cmd, in: in, out: json.NewDecoder(out)}
}

// report asks for a report.
func (c *child) report(t *testing.T) report {
	t.Helper()
	if _, err := io.WriteString(c.in, "report\n"); err != nil {
		t.Fatal(err)
	}
	var r report
	if err := c.out.Decode(&r); err != nil {
		t.Fatalf("read report: %v", err)
	}
	return r
}

// settle returns a report of what the child saw from now on: it forgets what is
// answered until now, and waits for at least n answers more.
func (c *child) settle(t *testing.T, n int) report {
	t.Helper()
	c.report(t)
	return c.collect(t, func(r report) bool { return r.count() >= n })
}

// collect returns a report of what the child saw since the last one, when that is enough
// or something is wrong.
func (c *child) collect(t *testing.T, enough func(report) bool) report {
	t.Helper()
	var sum report
	testenv.Eventually(t, waitMost, func() error {
		r := c.report(t)
		r.add(sum)
		sum = r
		if !enough(r) && len(r.Errors) == 0 {
			return fmt.Errorf("answers so far: %v", r.Answers)
		}
		return nil
	})
	return sum
}

func (r *report) add(other report) {
	for k, v := range other.Answers {
		r.Answers[k] += v
	}
	for k, v := range other.Sources {
		r.Sources[k] += v
	}
	r.Errors = append(other.Errors, r.Errors...)
}

func (r report) count() int {
	var n int
	for _, v := range r.Answers {
		n += v
	}
	return n
}

// wantFrom fails the test unless all answers say want, come from the server that was
// asked, and no call failed. The first answer may have been asked for before.
func (r report) wantFrom(t *testing.T, s shape, want netip.Addr) {
	t.Helper()
	if len(r.Errors) > 0 {
		t.Errorf("errors: %s", strings.Join(r.Errors, "; "))
	}
	for answer, n := range r.Answers {
		if answer != want.String() && n > 1 {
			t.Errorf("%d answers %s, want only %s", n, answer, want)
		}
	}
	if r.Answers[want.String()] == 0 {
		t.Errorf("no answer %s: %v", want, r.Answers)
	}
	r.wantSource(t, s)
}

func (r report) wantSource(t *testing.T, s shape) {
	t.Helper()
	if len(r.Sources) != 1 || r.Sources[s.Server.String()] == 0 {
		t.Errorf("answers came from %v, want only %s", r.Sources, s.Server)
	}
	if s.Connected && r.Peer != s.Server {
		t.Errorf("peer name is %s, want %s", r.Peer, s.Server)
	}
}
