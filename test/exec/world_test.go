// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) {
	all := roles()
	maps.Copy(all, etc.Roles())
	testenv.Main(m, all)
}

const tableName = "reviews.cluster2.example.org"

var nameserver = netip.MustParseAddrPort("192.0.2.53:53")

// newPlace is a pod whose nameserver knows every name (testenv.Answers).
func newPlace(t *testing.T) dnsteer.Place {
	t.Helper()
	client, server := testenv.NewLink(t)
	testenv.Nameserver(t, server, nameserver, nil)
	return dnsteer.Place{
		Binary:     dnsteer.Build(t),
		NetNS:      client,
		Cgroup:     testenv.NewCgroup(t),
		ResolvConf: "nameserver 192.0.2.53\n",
	}
}

// writeHosts writes a name table with one name.
func writeHosts(t *testing.T, addr string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, fmt.Appendf(nil, "%s %s\n", addr, tableName), 0o644); err != nil {
		t.Fatalf("write names: %v", err)
	}
	return path
}

// run runs a command to its end and returns what it printed.
func run(t *testing.T, p dnsteer.Place, cmd *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	p.Start(t, cmd)
	_ = cmd.Wait() // the caller looks at ProcessState
	return out.String(), errs.String()
}

// command is a role of ours that has started, with its ends of the pipes.
type command struct {
	*exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
}

// start starts cmd and returns when it has said "ready".
func start(t *testing.T, p dnsteer.Place, cmd *exec.Cmd) *command {
	t.Helper()
	c := &command{Cmd: cmd}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("make pipe: %v", err)
	}
	c.stdout = bufio.NewReader(stdout)
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatalf("make pipe: %v", err)
	}
	cmd.Stderr = &c.stderr
	p.Start(t, cmd)
	if line := c.line(t); line != "ready" {
		t.Fatalf("%s said %q", cmd, line)
	}
	return c
}

// line reads one line of what it prints.
func (c *command) line(t *testing.T) string {
	t.Helper()
	line, err := c.stdout.ReadString('\n')
	if err != nil {
		_ = c.Wait()
		t.Fatalf("read from %s: %v, %v\n%s", c.Cmd, err, c.ProcessState, &c.stderr)
	}
	return strings.TrimSuffix(line, "\n")
}

// finish lets an "ask" go on and returns the rest of what it prints.
func (c *command) finish(t *testing.T) []string {
	t.Helper()
	if _, err := io.WriteString(c.stdin, "\n"); err != nil {
		t.Errorf("write to %s: %v", c.Cmd, err)
	}
	rest, err := io.ReadAll(c.stdout)
	if err != nil {
		t.Errorf("read from %s: %v", c.Cmd, err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("run %s: %v\n%s", c.Cmd, err, &c.stderr)
	}
	return strings.Fields(string(rest))
}
