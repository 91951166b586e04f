// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/seed"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// lookup is one question that getent puts.
type lookup struct {
	name, want string
	exec       bool // under "dnsteer exec"
	remark     string
}

func lookups() []lookup {
	other := strings.TrimSuffix(seed.TableName, ".")
	return []lookup{
		{other, "", false, "no such name, says the nameserver"},
		{other, seed.TableAddr().String(), true, "from the file hosts"},
		{"www.shop.example.org", seed.LocalAddr().String(), true, "from the nameserver, as ever"},
	}
}

// getent runs an ordinary program with dnsteer and without.
func (d *demo) getent() error {
	fmt.Fprintln(d.out)
	return d.world("dnsteer exec", func(tb testing.TB) {
		w := seed.NewWorld(tb)
		hosts := filepath.Join(tb.TempDir(), "hosts")
		if err := os.WriteFile(hosts, []byte(w.Hosts), 0o644); err != nil {
			tb.Fatalf("write names: %v", err)
		}
		conf := fmt.Sprintf("nameserver %s\n", w.Nameserver.Addr())
		place := dnsteer.Place{Binary: d.binary, NetNS: w.Client, Cgroup: w.Cgroup, ResolvConf: conf}
		fmt.Fprintf(d.out, "  $ cat hosts\n  %s", w.Hosts)
		for _, l := range lookups() {
			cmd := etc.Command(tb, conf, "getent", "hosts", l.name)
			shown := "getent hosts " + l.name
			if l.exec {
				cmd = place.Command(tb, "exec", "--hosts", hosts, "--", "getent", "hosts", l.name)
				shown = "dnsteer exec --hosts hosts -- " + shown
			}
			fmt.Fprintf(d.out, "  $ %s\n", shown)
			d.look(tb, w.Client, cmd, l)
		}
	})
}

// look runs one lookup and fails unless it finds what it should: getent exits with 2
// for a name that does not exist.
func (d *demo) look(tb testing.TB, client *testenv.NetNS, cmd *exec.Cmd, l lookup) {
	tb.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	client.Start(cmd)
	_ = cmd.Wait() // the exit code is looked at below
	code, addr := cmd.ProcessState.ExitCode(), ""
	if fields := strings.Fields(stdout.String()); len(fields) > 0 {
		addr = fields[0]
	}
	if notFound := code == 2; addr != l.want || code != 0 && !notFound || notFound != (l.want == "") {
		tb.Fatalf("%s: %q, exit code %d, should be %q\n%s", cmd, addr, code, l.want, &stderr)
	}
	line := strings.Join(strings.Fields(stdout.String()), " ")
	if line == "" {
		line = fmt.Sprintf("(exit code %d)", code)
	}
	fmt.Fprintf(d.out, "  %-45s # %s\n", line, l.remark)
}
