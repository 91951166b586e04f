// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// background is a CMD that leaves its arguments running and ends when it can read from
// $0. A shell gives what it leaves /dev/null to read, hence the detour.
const background = `exec 3<&0; "$@" <&3 3<&- & read -r line <"$0"; exit 3`

// TestExecLeavesProcess is about what CMD leaves running: it goes on with its
// nameserver, loses no query and has no socket stranded.
func TestExecLeavesProcess(t *testing.T) {
	w := newWorld(t)
	gate := filepath.Join(t.TempDir(), "gate")
	if err := unix.Mkfifo(gate, 0o644); err != nil {
		t.Fatalf("make gate: %v", err)
	}
	load := w.execLoad(t, everyShape, shortPatience, "sh", "-c", background, gate)
	load.await("answered by the resolver", by(byTable, 0))
	write(t, gate, "\n")
	awaitEnd(t, load.cmd)
	load.awaitMany("answered by its nameserver", 20, by(byNameserver, now()))
	dnsteer.AssertGone(t, w.place, "")
	assertAnswered(t, load.stop(3))
}

// TestExecKilled leaves CMD without dnsteer, which had no chance to clean up. The
// datapath of exec goes with it: queries that start then go to their nameserver. The
// cgroup, where CMD still is, and the route to tags stay.
func TestExecKilled(t *testing.T) {
	w := newWorld(t)
	load := w.execLoad(t, []Shape{Unconnected, PerQuery, TCP}, shortPatience)
	load.await("answered by the resolver", by(byTable, 0))
	_, dead := kill(t, load.cmd.Process.Pid)
	load.awaitMany("answered by its nameserver", 20, by(byNameserver, dead))
	assertAnswered(t, since(load.stop(-1), dead))
	if n := dnsteer.Attached(t, w.place.Cgroup); n > 0 {
		t.Errorf("%d programs are still attached", n)
	}
}

// execLoad runs a load under "dnsteer exec", as the arguments of a command.
func (w *world) execLoad(t *testing.T, shapes []Shape, timeout time.Duration, command ...string) *load {
	t.Helper()
	p := plan{Name: tableName, Servers: nameservers, Shapes: shapes, Timeout: timeout}
	return startLoad(t, p, func(cmd *exec.Cmd) {
		cmd.Args = append(command, cmd.Args...)
		w.place.Exec(t, cmd, "--hosts", w.hosts)
		w.place.Start(t, cmd)
	})
}

// awaitEnd returns when a process has ended, which has not been waited for: Wait would
// close the pipe that others still write to.
func awaitEnd(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	testenv.Eventually(t, awaitTimeout, func() error {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil || strings.Contains(string(text), ") Z ") {
			return err
		}
		return fmt.Errorf("%s has not ended", cmd)
	})
}
