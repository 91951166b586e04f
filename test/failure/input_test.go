// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const roleWithout = "failure-without"

// without is the role: it takes away every mount of a filesystem type, or the kernel's
// BTF, and becomes the program of its arguments. It is to have a mount namespace of its own.
func without(args []string) int {
	var err error
	if args[0] == "btf" {
		err = unix.Mount("none", "/sys/kernel/btf", "tmpfs", unix.MS_RDONLY, "")
	} else {
		err = unmountAll(args[0])
	}
	if err == nil {
		err = syscall.Exec(args[1], args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	return 125
}

func unmountAll(fstype string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	var points []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		if strings.HasPrefix(after, fstype+" ") {
			points = append([]string{strings.Fields(before)[4]}, points...) // the innermost first
		}
	}
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return nil
}

// TestBadPlace: every command that needs something which is not there says what and what to
// do, in one line each, and leaves nothing.
func TestBadPlace(t *testing.T) {
	w := newWorld(t)
	cgroup, bpffs := []string{"--cgroup", w.place.Cgroup.Path}, []string{"--bpffs", w.bpffs}
	plain := t.TempDir()
	badYAML := filepath.Join(plain, "names.yaml")
	write(t, badYAML, "ttl: 30\nnames:\n  a.example.org: {address: 192.0.2.1}\n")
	args := func(parts ...any) (all []string) {
		for _, p := range parts {
			switch p := p.(type) {
			case string:
				all = append(all, strings.Fields(p)...)
			case []string:
				all = append(all, p...)
			}
		}
		return all
	}
	for _, tc := range []struct {
		name    string
		args    []string
		without string // filesystem
		uid     uint32
		want    string
		hint    string
	}{
		{"exec without cgroup v2", args("exec -- true"), "cgroup2", 0, "not a cgroup v2 directory", "mount -t cgroup2"},
		{"run without cgroup v2", args("run", bpffs), "cgroup2", 0, "not a cgroup v2 directory", "mount -t cgroup2"},
		{"load without cgroup v2", args("load", bpffs), "cgroup2", 0, "not a cgroup v2 directory", "mount -t cgroup2"},
		{"run in a directory", args("run --cgroup", plain, bpffs), "", 0, "not a cgroup v2 directory", "name a cgroup v2 directory"},
		{"run in nothing", args("run --cgroup /none", bpffs), "", 0, "cgroup is gone", "make the cgroup first"},
		{"run without bpffs", args("run", cgroup, "--bpffs", plain), "", 0, "not a BPF filesystem", "mount -t bpf"},
		{"load without bpffs", args("load", cgroup, "--bpffs", plain), "", 0, "not a BPF filesystem", "mount -t bpf"},
		{"run with empty bpffs", args("run", cgroup, "--bpffs="), "", 0, "not a BPF filesystem", "mount -t bpf"},
		{"load with empty bpffs", args("load", cgroup, "--bpffs="), "", 0, "not a BPF filesystem", "mount -t bpf"},
		{"leaks without bpffs", args("leaks --bpffs", plain), "", 0, "not a BPF filesystem", "mount -t bpf"},
		{"exec as nobody", args("exec -- true"), "", 65534, "root is needed", "run it with sudo"},
		{"run as nobody", args("run", cgroup), "", 65534, "root is needed", "run it with sudo"},
		{"status as nobody", args("status"), "", 65534, "root is needed", "run it with sudo"},
		{"leaks as nobody", args("leaks"), "", 65534, "root is needed", "run it with sudo"},
		{"exec with bad names", args("exec --names", badYAML, "-- true"), "", 0, badYAML + ":3: ", ""},
		{"run with bad names", args("run", cgroup, bpffs, "--names", badYAML), "", 0, badYAML + ":3: ", ""},
		{"exec without names", args("exec --hosts /none -- true"), "", 0, "read names: open /none: no such file", ""},
		{"run without names", args("run", cgroup, bpffs, "--hosts /none"), "", 0, "read names: open /none: no such file", ""},
		{"unload what is not loaded", args("upgrade", cgroup, bpffs), "", 0, "datapath is not loaded", "dnsteer load"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := w.place.Command(t, tc.args...)
			if tc.without != "" {
				cmd = w.without(t, tc.without, tc.args...)
			}
			if tc.uid != 0 {
				cmd = exec.Command(string(w.place.Binary), tc.args...)
				cmd.Dir = "/"
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tc.uid, Gid: tc.uid}}
				w.place.Cgroup.Enter(cmd)
			}
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			w.place.Start(t, cmd)
			if err := cmd.Wait(); exitOf(err) != 1 {
				t.Errorf("%v, want exit code 1", err)
			}
			if text := stderr.String(); !strings.Contains(text, tc.want) || !strings.Contains(text, "hint: ") && tc.hint != "" || !strings.Contains(text, tc.hint) {
				t.Errorf("want %q and the hint %q, got:\n%s", tc.want, tc.hint, text)
			}
			dnsteer.AssertGone(t, w.place, w.bpffs)
		})
	}
}

// without is dnsteer where something is missing.
func (w *world) without(t *testing.T, what string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := testenv.Command(t, roleWithout, append([]string{what, string(w.place.Binary)}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	w.place.Cgroup.Enter(cmd)
	return cmd
}

// TestLeaksWithoutBTF: nobody can tell whose a socket is, so nothing is counted.
func TestLeaksWithoutBTF(t *testing.T) {
	w := newWorld(t)
	service := w.run(t)
	for _, args := range [][]string{
		{"leaks", "--bpffs", w.bpffs},
		{"run", "--leaks", "--cgroup", w.place.Cgroup.Path, "--bpffs", w.bpffs},
	} {
		cmd := w.without(t, "btf", args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if args[0] == "run" {
			service.Stop() // it has the port
		}
		w.place.Start(t, cmd)
		if err := cmd.Wait(); exitOf(err) != 1 || !strings.Contains(stderr.String(), "kernel does not tell how it lays out sockets") ||
			!strings.Contains(stderr.String(), "hint: 'dnsteer check' shows why") {
			t.Errorf("%s: %v\n%s", args[0], err, &stderr)
		}
	}
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// TestPortTaken: exec takes another port, run says who may have it.
func TestPortTaken(t *testing.T) {
	w := newWorld(t)
	w.place.NetNS.Do(func() {
		for _, network := range []string{"udp", "tcp"} {
			var c interface{ Close() error }
			var err error
			if network == "udp" {
				c, err = net.ListenPacket(network, "127.0.0.1:15053")
			} else {
				c, err = net.Listen(network, "127.0.0.1:15053")
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}
	})
	cmd := w.place.Command(t, "exec", "--", "echo", "it ran")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	w.place.Start(t, cmd)
	if err := cmd.Wait(); err != nil || stdout.String() != "it ran\n" {
		t.Errorf("exec: %v, %q\n%s", err, &stdout, &stderr)
	}
	cmd = w.place.Command(t, "run", "--cgroup", w.place.Cgroup.Path, "--bpffs", w.bpffs)
	stderr.Reset()
	cmd.Stderr = &stderr
	w.place.Start(t, cmd)
	if err := cmd.Wait(); exitOf(err) != 1 || !strings.Contains(stderr.String(), "address already in use") || !strings.Contains(stderr.String(), "--resolver=none") {
		t.Errorf("run: %v\n%s", err, &stderr)
	}
	cmd = w.place.Command(t, "run", "--cgroup", w.place.Cgroup.Path, "--bpffs", w.bpffs, "--port", "15054", "--metrics", "127.0.0.1:15053")
	stderr.Reset()
	cmd.Stderr = &stderr
	w.place.Start(t, cmd)
	if err := cmd.Wait(); exitOf(err) != 1 || !strings.Contains(stderr.String(), "serve metrics: ") || strings.Contains(stderr.String(), "hint: ") {
		t.Errorf("run with the address of metrics taken: %v\n%s", err, &stderr)
	}
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// TestUpstreamUnreachable: the application gets an answer that says so, and soon.
func TestUpstreamUnreachable(t *testing.T) {
	w := newWorld(t)
	service := w.run(t, "--upstream", "192.0.2.99") // nobody has that address
	cmd := w.place.Command(t, "query", "--json", "www.example.org")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	w.place.Start(t, cmd)
	if err := cmd.Wait(); err != nil || !strings.Contains(stdout.String(), "SERVFAIL") || !strings.Contains(stdout.String(), "192.0.2.99") {
		t.Errorf("query: %v\n%s", err, &stdout)
	}
	service.Stop()
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// TestQuery: where an answer comes from, and what else can be said.
func TestQuery(t *testing.T) {
	w := newWorld(t)
	query := func(args ...string) (code int, text string) {
		t.Helper()
		cmd := w.place.Command(t, append([]string{"query"}, args...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		w.place.Start(t, cmd)
		err := cmd.Wait()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return exitOf(err), out.String()
	}
	if code, text := query("--timeout", "200ms", tableName); code != 1 || !strings.Contains(text, "hint: does a resolver of dnsteer listen on 127.0.0.1:15053") {
		t.Errorf("without a resolver: %d, %s", code, text)
	}
	service := w.run(t)
	for _, tc := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{tableName}, 0, []string{"; NOERROR, from table " + w.hosts + ":1\n", byTable.String()}},
		{[]string{"--tcp", tableName, "A"}, 0, []string{"; NOERROR, from table " + w.hosts + ":1\n", byTable.String()}},
		{[]string{tableName, "TXT"}, 0, []string{"; NOERROR, from table", "; authority: ", "SOA"}},
		{[]string{"www2.example.org"}, 0, []string{"; NOERROR, from upstream 192.0.2.53:53", byNameserver.String()}},
		{[]string{"www2.example.org"}, 0, []string{"; NOERROR, from cache", byNameserver.String()}},
		{[]string{"--json", tableName}, 0, []string{`"records": [`, byTable.String()}},
		{[]string{tableName, "NONSENSE"}, 1, []string{"NONSENSE"}},
		{nil, 2, []string{"want NAME"}},
	} {
		code, text := query(tc.args...)
		for _, want := range tc.want {
			if code != tc.code || !strings.Contains(text, want) {
				t.Errorf("query %q: exit code %d, want %d and %q:\n%s", tc.args, code, tc.code, want, text)
			}
		}
	}
	service.Stop()
}
