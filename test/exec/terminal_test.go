// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// TestTerminal runs dnsteer exec in the foreground of a terminal and presses Ctrl-C:
// the terminal sends the signal to CMD as well, which must not get it twice.
func TestTerminal(t *testing.T) {
	p := newPlace(t)
	master, slave := openTerminal(t)
	cmd := testenv.Command(t, roleSignals)
	p.Exec(t, cmd)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	p.Start(t, cmd)
	screen := bufio.NewScanner(master)
	expect := func(want string) {
		t.Helper()
		for screen.Scan() {
			line := strings.TrimPrefix(strings.TrimSpace(screen.Text()), "^C") // the terminal's echo
			if line == want {
				return
			}
			if line != "" {
				t.Errorf("CMD said %q, want %q", line, want)
			}
		}
		t.Fatalf("read from terminal: %v, waiting for %q", screen.Err(), want)
	}
	expect("ready")
	if _, err := master.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatalf("write to terminal: %v", err)
	}
	expect("SIGINT")
	// What follows was sent to dnsteer after the first one, and would come after a
	// second one.
	for _, s := range []unix.Signal{unix.SIGUSR1, unix.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatalf("signal: %v", err)
		}
		expect(unix.SignalName(s))
	}
	_ = cmd.Wait() // its code is looked at below
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	dnsteer.AssertGone(t, p, "")
}

// openTerminal makes a pseudo-terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("open terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatalf("unlock terminal: %v", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatalf("number terminal: %v", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("open terminal: %v", err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}
