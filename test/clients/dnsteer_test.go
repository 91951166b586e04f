// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// TestRun is the matrix in a cgroup that "dnsteer run" steers.
func TestRun(t *testing.T) {
	w, place, hosts := steered(t)
	service := dnsteer.Run(t, place, testenv.BPFFS(t), "--hosts", hosts)
	Check(t, func(tb testing.TB, cmd *exec.Cmd) {
		tb.Helper()
		place.Cgroup.Enter(cmd)
		w.Start(tb, cmd)
	})
	calls := service.Calls()
	if calls[loader.Steered] == 0 {
		t.Error("no call was steered")
	}
	delete(calls, loader.Steered)
	delete(calls, loader.Restored)
	delete(calls, loader.Owner)
	if len(calls) > 0 {
		t.Errorf("calls that were not steered: %v", calls)
	}
	service.Stop()
	assertTableKept(t, w)
	dnsteer.AssertGone(t, place, service.BPFFS)
}

// TestExec is the matrix with each command under a "dnsteer exec" of its own.
func TestExec(t *testing.T) {
	w, place, hosts := steered(t)
	Check(t, func(tb testing.TB, cmd *exec.Cmd) {
		tb.Helper()
		place.Exec(tb, cmd, "--hosts", hosts)
		w.Start(tb, cmd)
	})
	assertTableKept(t, w)
}

// steered makes a world whose nameserver lacks the table's names, and a place for
// dnsteer, which has them.
func steered(t *testing.T) (*World, dnsteer.Place, string) {
	t.Helper()
	w := NewWorld(t, Local)
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte(Hosts), 0o644); err != nil {
		t.Fatalf("write names: %v", err)
	}
	return w, dnsteer.Place{
		Binary:     dnsteer.Build(t),
		NetNS:      w.Client,
		Cgroup:     testenv.NewCgroup(t),
		ResolvConf: resolvConf,
	}, hosts
}

// assertTableKept fails the test if the nameserver was asked for a name of the table.
func assertTableKept(t *testing.T, w *World) {
	t.Helper()
	for _, q := range Questions() {
		if n := w.Nameserver.Count(q.Name); q.Table() && n > 0 {
			t.Errorf("the nameserver was asked %d times for %s", n, q.Name)
		}
	}
}
