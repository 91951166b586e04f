// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// testTimeout is for steps that take milliseconds on an idle machine.
const testTimeout = 10 * time.Second

func TestMain(m *testing.M) {
	Main(m, Roles{
		"whoami": whoami,
		"linger": linger,
		"leak":   leak,
		"demand": demand,
	})
}

// whoami prints the child's cgroup, namespace and user.
func whoami([]string) int {
	cgroup, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 1
	}
	ns, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return 1
	}
	fmt.Printf("%s\n%d\n%s", ns, os.Getuid(), cgroup)
	return 0
}

// linger runs until it is killed, and says when it has begun.
func linger([]string) int {
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	select {}
}

// demand demands privileges and says what came of it.
func demand([]string) int {
	tb := &standalone{out: os.Stdout}
	tb.run(func(tb testing.TB) { Privileged(tb) })
	if tb.Failed() {
		return 1
	}
	return 0
}

// exchange asks one question from inside a namespace.
func exchange(t *testing.T, ns *NetNS, network string, server netip.AddrPort, name string, qtype uint16, size uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, qtype)
	if size > 0 {
		m.SetEdns0(size, false)
	}
	var reply *dns.Msg
	var err error
	ns.Do(func() {
		client := &dns.Client{Net: network, Timeout: testTimeout}
		reply, _, err = client.Exchange(m, server.String())
	})
	if err != nil {
		t.Fatalf("ask %s for %s: %v", server, name, err)
	}
	return reply
}

func TestMissingCaps(t *testing.T) {
	for _, tc := range []struct {
		name      string
		effective uint64
		last      int
		want      []string
	}{
		{name: "all", effective: 1<<41 - 1, last: 40},
		{name: "no CAP_BPF", effective: 1<<39 - 1, last: 40, want: []string{"CAP_BPF"}},
		{name: "kernel without CAP_BPF", effective: 1<<38 - 1, last: 37},
		{
			name: "none", last: 40,
			want: []string{
				"CAP_SETGID", "CAP_SETUID", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE",
				"CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, missingCaps(tc.effective, tc.last)); diff != "" {
				t.Errorf("missing capabilities (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPrivilegedFails(t *testing.T) {
	for _, tc := range []struct {
		name string
		uid  uint32
		want string
	}{
		{name: "root"},
		{name: "user", uid: 1000, want: "needs root, runs as uid 1000: run the tests as root"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := Command(t, "demand")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tc.uid, Gid: tc.uid}}
			out, err := cmd.Output()
			if (err != nil) != (tc.want != "") || !strings.Contains(string(out), tc.want) {
				t.Errorf("ended with %v and %q, want %q", err, out, tc.want)
			}
		})
	}
}

func TestBinaryNamesThePackage(t *testing.T) {
	out := new(strings.Builder)
	tb := &standalone{out: out}
	tb.run(func(tb testing.TB) { Binary(tb, "no-such-server", "some-package") })
	if want := "needs no-such-server: apt-get install some-package"; !tb.Failed() || !strings.Contains(out.String(), want) {
		t.Errorf("failed %v, said %q, want %q", tb.Failed(), out, want)
	}
}

func TestFindCgroup2(t *testing.T) {
	v1 := mount{point: "/sys/fs/cgroup/cpu", root: "/", fsType: "cgroup"}
	hybrid := mount{point: "/sys/fs/cgroup/unified", root: "/", fsType: "cgroup2"}
	part := mount{point: "/part", root: "/pod1", fsType: "cgroup2"}
	for _, tc := range []struct {
		name string
		all  []mount
		want string
	}{
		{name: "hybrid", all: []mount{v1, hybrid}, want: hybrid.point},
		{name: "root wins", all: []mount{part, hybrid}, want: hybrid.point},
		{name: "part", all: []mount{v1, part}, want: part.point},
		{name: "none", all: []mount{v1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := findCgroup2(tc.all)
			if got != tc.want || (err != nil) != (tc.want == "") {
				t.Errorf("found %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestParseMounts(t *testing.T) {
	const text = "36 35 98:0 /a\\040b /mnt/x\\040y rw,noatime master:1 shared:2 - cgroup2 none rw\n" +
		"37 35 98:0 / /sys/fs/bpf rw - bpf bpf rw\n"
	got, err := parseMounts(text)
	if err != nil {
		t.Fatal(err)
	}
	want := []mount{
		{root: "/a b", point: "/mnt/x y", fsType: "cgroup2"},
		{root: "/", point: "/sys/fs/bpf", fsType: "bpf"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mount{})); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	if _, err := parseMounts("nonsense\n"); err == nil {
		t.Error("nonsense was parsed")
	}
}

func TestEventually(t *testing.T) {
	calls := 0
	Eventually(t, testTimeout, func() error {
		if calls++; calls < 3 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	err := poll(time.Millisecond, func() error { return fmt.Errorf("never") })
	if err == nil || !strings.Contains(err.Error(), "never") {
		t.Errorf("poll past its deadline: %v, want the condition's error", err)
	}
}

func TestNetNS(t *testing.T) {
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	outer, inner := NewNetNS(t), NewNetNS(t)
	seen := map[string]bool{here: true}
	look := func() string {
		link, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	outer.Do(func() {
		before := look()
		seen[before] = true
		inner.Do(func() { seen[look()] = true })
		if after := look(); after != before {
			t.Errorf("nested Do came back to %s, not %s", after, before)
		}
	})
	if len(seen) != 3 {
		t.Errorf("namespaces seen: %v, want 3 different ones", seen)
	}
	if outer.Cookie() == inner.Cookie() {
		t.Error("two namespaces have the same cookie")
	}
	if _, err := os.Stat(outer.Path()); err != nil {
		t.Error(err)
	}
	// A panic must bring the thread home as well.
	func() {
		defer func() { _ = recover() }()
		outer.Do(func() { panic("on purpose") })
	}()
	if now := look(); now != here {
		t.Errorf("after a panic the thread is in %s, not %s", now, here)
	}
	outer.Do(func() {
		listener, err := net.Listen("tcp", "[::1]:0")
		if err != nil {
			t.Errorf("lo is not up: %v", err)
			return
		}
		listener.Close()
	})
}

func TestCommandInCgroupAndNetNS(t *testing.T) {
	ns, cg := NewNetNS(t), NewCgroup(t)
	child := cg.Child(t)
	cmd := Command(t, "whoami")
	stdout := new(strings.Builder)
	cmd.Stdout = stdout
	child.Enter(cmd)
	ns.Start(cmd)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	root, err := cgroup2Mount()
	if err != nil {
		t.Fatal(err)
	}
	wantNS, err := os.Readlink(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	want := wantNS + "\n0\n"
	if !strings.HasPrefix(stdout.String(), want) {
		t.Errorf("child said %q, want it to begin with %q", stdout, want)
	}
	if path := "0::" + strings.TrimPrefix(child.Path, root) + "\n"; !strings.Contains(stdout.String(), path) {
		t.Errorf("child said %q, want cgroup %q", stdout, path)
	}
}

func TestCgroupKillsWhatIsLeft(t *testing.T) {
	var path string
	t.Run("leave", func(t *testing.T) {
		cg := NewCgroup(t)
		path = cg.Path
		cmd := Command(t, "linger")
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cg.Child(t).Start(cmd)
		if _, err := io.ReadFull(stdout, make([]byte, len("ready"))); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("cgroup %s outlived its test: %v", path, err)
	}
}

func TestBPFFS(t *testing.T) {
	dir := BPFFS(t)
	all, err := mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.point == dir && m.fsType == "bpf" {
			return
		}
	}
	t.Errorf("%s is not a BPF file system", dir)
}

// TestRunOutsideTests checks the testing.TB of programs.
func TestRunOutsideTests(t *testing.T) {
	saved := os.Getenv("TMPDIR")
	order := new(strings.Builder)
	err := Run("demo", order, func(tb testing.TB) {
		tb.Cleanup(func() { tb.Log("last") })
		tb.Cleanup(func() { tb.Log("first") })
		tb.Logf("context: %v", tb.Context().Err())
		tb.Fatalf("stop")
	})
	if err == nil {
		t.Error("a run that called Fatal succeeded")
	}
	if diff := cmp.Diff("context: <nil>\nstop\nfirst\nlast\n", order.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	if got := os.Getenv("TMPDIR"); got != saved {
		t.Errorf("TMPDIR is %q afterwards, want %q", got, saved)
	}
	if err := Run("demo", order, func(tb testing.TB) { NewNetNS(tb); NewCgroup(tb); BPFFS(tb) }); err != nil {
		t.Errorf("%v\n%s", err, order)
	}
	if context.Cause(t.Context()) != nil {
		t.Error("the test's own context ended")
	}
}
