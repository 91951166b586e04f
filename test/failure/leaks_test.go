// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// leaksCommand is "dnsteer leaks" beside the service.
func (w *world) leaksCommand(t *testing.T, flags ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	cmd = w.place.Command(t, append([]string{"leaks", "--bpffs", w.bpffs}, flags...)...)
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	w.place.Start(t, cmd)
	return cmd, stdout, stderr
}

// words is a text without its columns.
func words(text string) string { return strings.Join(strings.Fields(text), " ") }

func exitOf(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// Under load, and while the resolver is started anew, nothing leaks; what is told to go
// its own way does, and is told of.
func TestLeaks(t *testing.T) {
	w := newWorld(t)
	service := w.run(t, "--leaks", "--except", "192.0.2.54")
	excluded := netip.MustParseAddrPort("192.0.2.54:53")
	ask := func(server netip.AddrPort) *load {
		return w.start(t, plan{Name: tableName, Servers: []netip.AddrPort{server}, Shapes: []Shape{Unconnected, PerQuery, TCP}, Timeout: patience})
	}
	load, other := ask(nameservers[0]), ask(excluded)
	load.await("answered by the resolver", by(byTable, 0))
	other.await("answered by the nameserver", by(byNameserver, 0))
	cmd, stdout, stderr := w.leaksCommand(t, "--for", "1s", "--json")
	if err := cmd.Wait(); exitOf(err) != 1 {
		t.Fatalf("dnsteer leaks: %v, want exit code 1\n%s", err, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	var end struct {
		Summary struct {
			Packets []struct {
				Reason, Family, Proto string
				Packets               int
			}
			Kinds []struct {
				Reason, Proto, Server, Command, Cgroup string
				Sockets                                int
			}
			Untold int
		}
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &end); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	if len(lines) != 1+len(end.Summary.Kinds) || len(end.Summary.Kinds) == 0 || end.Summary.Untold != 0 {
		t.Errorf("each kind is to be told once: %s", stdout)
	}
	for _, kind := range end.Summary.Kinds {
		if kind.Reason != "excluded" || kind.Server != "192.0.2.54" || kind.Sockets == 0 || kind.Cgroup != w.place.Cgroup.Path ||
			kind.Command != "self" && (kind.Command != "" || kind.Proto != "tcp") { // a connection that has ended
			t.Errorf("leak: %+v", kind)
		}
	}
	for _, n := range end.Summary.Packets {
		if n.Reason != "excluded" || n.Packets == 0 {
			t.Errorf("packets: %+v", n)
		}
	}

	cmd, stdout, stderr = w.leaksCommand(t, "--cgroup", w.place.Cgroup.Path)
	testenv.Eventually(t, awaitTimeout, func() error {
		if n := dnsteer.Watching(t, w.place.Cgroup); n != 2 {
			return errors.New("it does not watch yet")
		}
		return nil
	})
	_, dead := kill(t, service.Worker())
	load.awaitMany("answered by the resolver again", 20, by(byTable, now()))
	assertAnswered(t, since(load.stop(0), dead))
	assertAnswered(t, other.stop(0))
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); exitOf(err) != 1 {
		t.Errorf("dnsteer leaks: %v, want exit code 1\n%s", err, stderr)
	}
	if text := stdout.String(); !strings.Contains(text, "excluded: udp to 192.0.2.54 by self (pid ") ||
		!strings.Contains(text, "this nameserver is not to be steered") || strings.Contains(text, "unknown") {
		t.Errorf("it tells:\n%s", text)
	}

	status := w.place.Command(t, "status", "--bpffs", w.bpffs)
	text := new(bytes.Buffer)
	status.Stdout = text
	w.place.Start(t, status)
	if err := status.Wait(); err != nil || !strings.Contains(words(text.String()), " LEAK FAMILY PROTO PACKETS MEANING ") ||
		!strings.Contains(words(text.String()), " this nameserver is not to be steered excluded ipv4 tcp ") {
		t.Errorf("status: %v\n%s", err, text)
	}
	status = w.place.Command(t, "status", "--json", "--bpffs", w.bpffs)
	text.Reset()
	status.Stdout = text
	w.place.Start(t, status)
	err := status.Wait()
	var states []struct {
		Cgroup  string
		Answers bool `json:"resolver_answers"`
		Hooks   []struct{ Attached bool }
		Leaks   []struct {
			Reason  string
			Packets int
		}
	}
	if err = errors.Join(err, json.Unmarshal(text.Bytes(), &states)); err != nil || len(states) != 1 {
		t.Fatalf("status: %v\n%s", err, text)
	}
	if s := states[0]; s.Cgroup != w.place.Cgroup.Path || !s.Answers || len(s.Hooks) != 8 || len(s.Leaks) == 0 || s.Leaks[0].Packets == 0 {
		t.Errorf("status: %+v", s)
	}
	service.Stop()
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// What is steered leaves no trace of a leak, whatever the shape of its socket.
func TestNoLeaks(t *testing.T) {
	w := newWorld(t)
	service := w.run(t)
	cmd, stdout, stderr := w.leaksCommand(t)
	testenv.Eventually(t, awaitTimeout, func() error {
		if n := dnsteer.Watching(t, w.place.Cgroup); n != 1 {
			return errors.New("it does not watch yet")
		}
		return nil
	})
	load := w.load(t, patience, Unconnected, PerQuery, Connected, TCP)
	load.awaitMany("answered by the resolver", 100, by(byTable, 0))
	assertAnswered(t, load.stop(0))
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(stdout.String(), "nothing leaked in ") {
		t.Errorf("dnsteer leaks: %v\n%s%s", err, stdout, stderr)
	}
	service.Stop()
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// Bad input.
func TestLeaksOfNothing(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 1, "nothing is loaded"},
		{[]string{"--cgroup", w.place.Cgroup.Path}, 1, "not loaded"},
		{[]string{"--for", "-1s"}, 2, "want a time ahead"},
		{[]string{"--for", "x"}, 2, "invalid value"},
		{[]string{"now"}, 2, "unexpected argument"},
	} {
		cmd, _, stderr := w.leaksCommand(t, tc.args...)
		if err := cmd.Wait(); exitOf(err) != tc.code || !strings.Contains(stderr.String(), tc.want) || !strings.Contains(stderr.String(), "hint: ") {
			t.Errorf("leaks %q: %v, %s, want %d, %q and a hint", tc.args, err, stderr, tc.code, tc.want)
		}
	}
}
