// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// many is how many run at once: one for each address of the test network but a few.
	many = 250
	// manyTimeout bounds the start of all: each takes a tenth of a second of a processor.
	manyTimeout = 3 * time.Minute
)

// shell starts them all. Each command says that it is there, waits for a line of its
// own at the gate, and looks the same name up.
const shell = `i=0
while [ $i -lt $1 ]; do
	"$2" exec --hosts "$3/hosts.$i" -- sh -c '
		echo ready
		read -r line <"$1/gate"
		getent ahostsv4 "$2"
	' sh "$3" "$4" >"$3/out.$i" 2>&1 &
	i=$((i+1))
done
wait`

// TestMany runs many commands at once, each with a table of its own for the same name.
// All are there before the first one asks.
func TestMany(t *testing.T) {
	p := newPlace(t)
	dir := t.TempDir()
	for i := range many {
		text := fmt.Appendf(nil, "%s %s\n", address(i), tableName)
		if err := os.WriteFile(fmt.Sprintf("%s/hosts.%d", dir, i), text, 0o644); err != nil {
			t.Fatalf("write names: %v", err)
		}
	}
	open := makeGate(t, dir)
	cmd := etc.Command(t, p.ResolvConf, "sh", "-c", shell, "sh", fmt.Sprint(many), string(p.Binary), dir, tableName)
	p.Cgroup.Enter(cmd)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	began := time.Now()
	p.Start(t, cmd)
	testenv.Eventually(t, manyTimeout, func() error { return allReady(dir) })
	t.Logf("%d at once after %v", many, time.Since(began))
	open()
	if err := cmd.Wait(); err != nil {
		t.Errorf("run %d commands: %v\n%s", many, err, &stderr)
	}
	for i := range many {
		if got := addresses(t, dir, i); got != address(i) {
			t.Errorf("command %d: answer %s, want %s", i, got, address(i))
		}
	}
	dnsteer.AssertGone(t, p, "")
}

// makeGate makes a FIFO at which the commands wait, and returns what lets all pass.
func makeGate(t *testing.T, dir string) (open func()) {
	t.Helper()
	path := filepath.Join(dir, "gate")
	if err := unix.Mkfifo(path, 0o644); err != nil {
		t.Fatalf("make gate: %v", err)
	}
	// Reading too, so that it opens at once and no command finds the end of the file.
	gate, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("open gate: %v", err)
	}
	t.Cleanup(func() { gate.Close() })
	return func() {
		if _, err := gate.Write(bytes.Repeat([]byte("\n"), many)); err != nil {
			t.Errorf("open gate: %v", err)
		}
	}
}

// allReady fails until every command is at the gate, or one has said something else.
func allReady(dir string) error {
	for i := range many {
		text, err := os.ReadFile(fmt.Sprintf("%s/out.%d", dir, i))
		if err != nil {
			return err
		}
		if string(text) != "ready\n" {
			return fmt.Errorf("command %d said %q", i, text)
		}
	}
	return nil
}

// addresses reads what a command found, each address once.
func addresses(t *testing.T, dir string, i int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("%s/out.%d", dir, i))
	if err != nil {
		t.Fatalf("read output: %v", err)
	}
	var found []string
	for line := range strings.Lines(strings.TrimPrefix(string(text), "ready\n")) {
		addr, _, _ := strings.Cut(line, " ")
		if len(found) == 0 || found[len(found)-1] != addr {
			found = append(found, addr)
		}
	}
	return strings.Join(found, ", ")
}

func address(i int) string { return fmt.Sprintf("198.51.100.%d", i) }
