// SPDX-License-Identifier: Apache-2.0

//go:build agent

package conformance

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/probe"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// TestAgentTable runs the table in a pod of dnsteer-agent, which the plugin has announced:
// whoever is steered is answered by the agent's listeners in the pod's namespace, and that
// asks whom the client meant, from there. Needs the Go toolchain, hence the tag.
func TestAgentTable(t *testing.T) {
	bin := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/dnsteer/dnsteer/cmd/dnsteer-agent", "github.com/dnsteer/dnsteer/cmd/dnsteer-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, s := range []state{stateUp, stateDead, stateHung} {
		t.Run(string(s), func(t *testing.T) {
			w := agentWorld(t, s, bin)
			for _, owner := range []probe.Owner{probe.OwnerNone, probe.OwnerUID, probe.OwnerGID, probe.OwnerBefore, probe.OwnerSeteuid, probe.OwnerPassed} {
				t.Run(string(owner), func(t *testing.T) { w.runShapes(t, owner) })
			}
		})
	}
}

// patience is for what takes milliseconds on an idle machine.
const patience = 20 * time.Second

// agentWorld is a world with an agent. Its own queries are not of the cgroup, so that the
// counters are the client's alone.
func agentWorld(t *testing.T, s state, bin string) *world {
	t.Helper()
	w := newWorld(t, stateAbsent, 0, loader.Options{})
	w.state, w.agent = s, true
	opts := loader.Options{Cgroup: w.cgroup.Path, BPFFS: testenv.BPFFS(t)}
	dir := t.TempDir()
	socket := filepath.Join(dir, "agent.sock")
	agent := exec.Command(filepath.Join(bin, "dnsteer-agent"), "-socket", socket, "-state", filepath.Join(dir, "state"), "-cgroup", opts.Cgroup, "-bpffs", opts.BPFFS)
	var log bytes.Buffer
	agent.Stderr = &log
	testenv.NewNetNS(t).Start(agent)
	t.Cleanup(func() {
		_ = agent.Process.Kill() // it may have ended
		_ = agent.Wait()
		if err := loader.Unload(opts, 0); err != nil {
			t.Errorf("unload: %v", err)
		}
		if t.Failed() {
			t.Logf("the agent's log:\n%s", log.String())
		}
	})
	testenv.Eventually(t, patience, func() error { return w.announce(filepath.Join(bin, "dnsteer-cni"), socket) })
	var err error
	if w.datapath, err = loader.Open(opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.datapath.Close)
	switch s {
	case stateDead:
		if err := agent.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = agent.Wait()
	case stateHung:
		if err := agent.Process.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		awaitHung(t)
	}
	return w
}

// announce has the plugin tell the agent of the client's namespace, as a runtime does.
func (w *world) announce(plugin, socket string) error {
	cmd := exec.Command(plugin)
	cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=pod", "CNI_IFNAME=eth0", "CNI_PATH=/nonexistent", "CNI_NETNS=" + w.client.Path()}
	cmd.Stdin = bytes.NewReader(fmt.Appendf(nil, `{"cniVersion": "1.0.0", "name": "pods", "type": "dnsteer-cni", "socket": %q, "required": true,
		"runtimeConfig": {"dns": {"servers": [%q, %q]}}, "prevResult": {"cniVersion": "1.0.0"}}`,
		socket, namesOf(probe.V4).first.Addr(), namesOf(probe.V6).first.Addr()))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("announce: %w: %s", err, out)
	}
	return nil
}
