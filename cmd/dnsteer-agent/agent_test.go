// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	svc     = "svc.cluster-2.example.org." // in the table
	fromTab = "192.0.2.200"
)

// Two pods with a nameserver each, one process that serves both: steered when they are
// added, direct when the agent is killed, steered when it is back, direct when they are
// withdrawn.
func TestLife(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	podA, server := testenv.NewLink(t)
	podB, serverB := testenv.NewLink(t)
	// The same address is another server in each pod's network.
	ours, theirs := nameserver(t, server, "192.0.2.54"), nameserver(t, serverB, "192.0.2.54")
	nameserver(t, server, "192.0.2.53")
	a, b := podAttachment(t, podA, "pod-a", "192.0.2.53", "example.org"), podAttachment(t, podB, "pod-b", "192.0.2.54", "cluster-2.example.org")

	node := testenv.NewNetNS(t) // which reaches neither
	agent := w.start(t, node)
	w.expect(t, podA, "192.0.2.53", svc, "198.51.100.53")
	w.expect(t, podB, "192.0.2.54", svc, "198.51.100.54")
	for _, at := range []cnirpc.Attachment{a, b, a} {
		if err := w.client().Add(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	steered := func() {
		t.Helper()
		w.expect(t, podA, "192.0.2.53", svc, fromTab)
		w.expect(t, podB, "192.0.2.54", svc, fromTab)
		w.expect(t, podA, "192.0.2.53", "www.example.org.", "198.51.100.53")
		ours.Reset()
		theirs.Reset()
		w.expect(t, podB, "192.0.2.54", "b.example.org.", "198.51.100.54")
		if theirs.Count("b.example.org.") == 0 || ours.Count("b.example.org.") > 0 {
			t.Error("the query of a pod did not leave from its own namespace")
		}
		// Another nameserver than the pod's own is still the one that was meant; what it
		// told pod B is in the cache.
		w.expect(t, podA, "192.0.2.54", "www.example.org.", "198.51.100.54")
		for _, at := range []cnirpc.Attachment{a, b} {
			if err := w.client().Check(t.Context(), at); err != nil {
				t.Errorf("check %s: %v", at.ContainerID, err)
			}
		}
	}
	direct := func(ns *testenv.NetNS, addr, want string) {
		t.Helper()
		w.expect(t, ns, addr, svc, want)
	}
	steered()
	// The search list is each pod's own: in pod B "svc" is asked for with another.
	w.expect(t, podB, "192.0.2.54", "svc.cluster-2.example.org.cluster-2.example.org.", fromTab)
	w.expect(t, podA, "192.0.2.53", "svc.cluster-2.example.org.cluster-2.example.org.", "198.51.100.53")

	agent.end(t, unix.SIGKILL)
	direct(podA, "192.0.2.53", "198.51.100.53")
	direct(podB, "192.0.2.54", "198.51.100.54")
	if err := w.client().Status(t.Context()); !errors.Is(err, cnirpc.ErrAway) {
		t.Errorf("status of a dead agent: %v", err)
	}

	agent = w.start(t, node)
	steered()
	if err := w.client().Del(t.Context(), a); err != nil {
		t.Error(err)
	}
	direct(podA, "192.0.2.53", "198.51.100.53")
	w.expect(t, podB, "192.0.2.54", svc, fromTab)
	if err := w.client().Check(t.Context(), a); !errors.Is(err, cnirpc.ErrUnknown) {
		t.Errorf("check of a withdrawn pod: %v", err)
	}
	if err := w.client().Del(t.Context(), a); err != nil {
		t.Errorf("withdrawn again: %v", err)
	}

	if log := agent.end(t, unix.SIGTERM); strings.Contains(log, "level=WARN") {
		t.Errorf("it complains: %s", log)
	}
	direct(podB, "192.0.2.54", "198.51.100.54")
	agent = w.start(t, node)
	w.expect(t, podB, "192.0.2.54", svc, fromTab)
	direct(podA, "192.0.2.53", "198.51.100.53")
	if err := w.client().GC(t.Context(), "other", []cnirpc.ID{}); err != nil {
		t.Error(err)
	}
	w.expect(t, podB, "192.0.2.54", svc, fromTab)
	if err := w.client().GC(t.Context(), "pods", []cnirpc.ID{}); err != nil {
		t.Error(err)
	}
	direct(podB, "192.0.2.54", "198.51.100.54")
	agent.end(t, unix.SIGTERM)
	if left, err := filepath.Glob(filepath.Join(w.dir, "state", "*")); err != nil || len(left) > 0 {
		t.Errorf("state is left: %v, %v", left, err)
	}
}

// A pod that was deleted without a word is forgotten, and its namespace let go.
func TestGone(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	agent := w.start(t, server)
	fd, err := unix.FcntlInt(pod.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := podAttachment(t, pod, "pod", "192.0.2.53")
	at.Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	stays := podAttachment(t, testenv.NewNetNS(t), "stays", "192.0.2.53")
	unseen := podAttachment(t, testenv.NewNetNS(t), "unseen", "192.0.2.53")
	unseen.Path = "/run/netns/of-another-mount-namespace"
	if err := errors.Join(w.client().Add(t.Context(), at), w.client().Add(t.Context(), stays), w.client().Add(t.Context(), unseen)); err != nil {
		t.Fatal(err)
	}
	w.expect(t, pod, "192.0.2.53", svc, fromTab)
	if err := unix.Close(fd); err != nil { // as a runtime unmounts it
		t.Fatal(err)
	}
	testenv.Eventually(t, patience, func() error {
		if err := w.client().Check(t.Context(), at); !errors.Is(err, cnirpc.ErrUnknown) {
			return fmt.Errorf("it is still known: %v", err)
		}
		return nil
	})
	w.expect(t, pod, "192.0.2.53", svc, "198.51.100.53")
	for _, at := range []cnirpc.Attachment{stays, unseen} {
		if err := w.client().Check(t.Context(), at); err != nil {
			t.Errorf("%s is gone too: %v", at.ContainerID, err)
		}
	}
	agent.letsGo(t, pod)
	agent.end(t, unix.SIGTERM)
}

// In a container the node's files are below another root, where /var/run is a link to /run:
// the runtime's paths mean what they mean there.
func TestHostRoot(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	root := filepath.Join(w.dir, "node")
	mount := filepath.Join(root, "run/netns/pod")
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	if err := errors.Join(os.MkdirAll(filepath.Dir(mount), 0o755), os.Mkdir(filepath.Join(root, "var"), 0o755),
		os.Symlink("/run", filepath.Join(root, "var/run"))); err != nil {
		t.Fatal(err)
	}
	writeFile(t, mount, "")
	if err := unix.Mount(pod.Path(), mount, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mount, unix.MNT_DETACH) })
	agent := w.start(t, testenv.NewNetNS(t), "-host-root", root)
	at := podAttachment(t, pod, "pod", "192.0.2.53")
	at.Path = "/var/run/netns/pod"
	if err := w.client().Add(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	agent.end(t, unix.SIGKILL)
	agent = w.start(t, testenv.NewNetNS(t), "-host-root", root)
	w.expect(t, pod, "192.0.2.53", svc, fromTab)
	if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil { // as a runtime does
		t.Fatal(err)
	}
	agent.letsGo(t, pod)
	agent.end(t, unix.SIGTERM)
}

// letsGo returns when the agent has left a namespace, its port too.
func (p *process) letsGo(t testing.TB, ns *testenv.NetNS) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		if n := descriptors(t, p.cmd.Process.Pid, ns); n > 0 {
			return fmt.Errorf("the agent holds %d descriptors of the namespace", n)
		}
		return nil
	})
}

// descriptors counts those that a process has of a namespace.
func descriptors(t testing.TB, pid int, ns *testenv.NetNS) int {
	t.Helper()
	want, err := os.Readlink(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil || !strings.HasPrefix(want, "net:[") {
		t.Fatalf("look for %q in %s: %v", want, dir, err)
	}
	n := 0
	for _, e := range entries {
		if got, _ := os.Readlink(filepath.Join(dir, e.Name())); got == want {
			n++
		}
	}
	return n
}

// A table that changes is everybody's at once; a bad one is not.
func TestReload(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	agent := w.start(t, server)
	if err := w.client().Add(t.Context(), podAttachment(t, pod, "pod-a", "192.0.2.53")); err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct{ text, want string }{
		{strings.Replace(table, "200", "201", 1), "192.0.2.201"},
		{"192.0.2.300 svc.cluster-2.example.org\n", "192.0.2.201"},
		{table, fromTab},
	} {
		writeFile(t, w.names, step.text)
		if i == 0 { // who waits is served too
			if err := agent.cmd.Process.Signal(unix.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		testenv.Eventually(t, patience, func() error {
			if got := w.resolve(t, pod, "192.0.2.53", svc); got != step.want {
				return fmt.Errorf("got %s, want %s", got, step.want)
			}
			return nil
		})
	}
	agent.end(t, unix.SIGTERM)
}

// SIGHUP is for an agent that serves: one that waits goes on waiting.
func TestHangUp(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	lock := holdLock(t, &settings{socket: w.socket()})
	agent := w.launch(t, testenv.NewNetNS(t))
	agent.says(t, "wait for the agent that runs")
	if err := agent.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	agent.says(t, "msg=serving")
	agent.end(t, unix.SIGTERM)
}

// Nameservers are asked in a random case if the flag says so, and the application gets its
// own back.
func TestRandomCase(t *testing.T) {
	// Letters enough that no spelling is as this one by chance.
	const name = "a-name-of-many-letters-so-that-chance-is-of-no-matter.example.org."
	for _, tc := range []struct {
		name  string
		flags []string
		want  bool
	}{{"by default", nil, false}, {"with the flag", []string{"-random-case"}, true}} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			defer w.unload(t)
			pod, server := testenv.NewLink(t)
			ns := nameserver(t, server, "192.0.2.53")
			agent := w.start(t, server, tc.flags...)
			if err := w.client().Add(t.Context(), podAttachment(t, pod, "pod", "192.0.2.53")); err != nil {
				t.Fatal(err)
			}
			w.expect(t, pod, "192.0.2.53", name, "198.51.100.53")
			asked := ns.Queries()
			if len(asked) == 0 {
				t.Error("the nameserver was not asked")
			}
			for _, q := range asked {
				if !strings.EqualFold(q.Name, name) || (q.Name != name) != tc.want {
					t.Errorf("asked for %s", q.Name)
				}
			}
			agent.end(t, unix.SIGTERM)
		})
	}
}

// What is refused, and what policy leaves alone.
func TestAdd(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	agent := w.start(t, server)
	own := podAttachment(t, server, "host", "192.0.2.53")
	if err := w.client().Add(t.Context(), own); err == nil || !strings.Contains(err.Error(), "node's own") {
		t.Errorf("the agent's own namespace: %v", err)
	}
	if err := w.client().Check(t.Context(), own); !errors.Is(err, cnirpc.ErrUnknown) {
		t.Errorf("check of what was refused: %v", err)
	}
	left := podAttachment(t, pod, "left", "192.0.2.53")
	left.Annotations = map[string]string{cluster.Steer: "false"}
	if err := errors.Join(w.client().Add(t.Context(), left), w.client().Check(t.Context(), left)); err != nil {
		t.Errorf("a pod that is left alone: %v", err)
	}
	w.expect(t, pod, "192.0.2.53", svc, "198.51.100.53")
	if err := w.client().Del(t.Context(), left); err != nil {
		t.Error(err)
	}
	// Two interfaces of one pod: its scope ends with the last.
	first := podAttachment(t, pod, "pod", "192.0.2.53")
	second := first
	second.IfName = "eth1"
	if err := errors.Join(w.client().Add(t.Context(), first), w.client().Add(t.Context(), second), w.client().Del(t.Context(), first)); err != nil {
		t.Fatal(err)
	}
	w.expect(t, pod, "192.0.2.53", svc, fromTab)
	if err := w.client().Del(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	w.expect(t, pod, "192.0.2.53", svc, "198.51.100.53")
	agent.letsGo(t, pod)
	// A pod whose port is taken by what is no resolver is not half enrolled.
	taken := listenUDP(t, pod, "127.0.0.1:15053")
	if err := w.client().Add(t.Context(), first); err == nil || !strings.Contains(err.Error(), "address already in use") || !strings.Contains(err.Error(), "answers no query") {
		t.Errorf("taken port %s: %v", taken.LocalAddr(), err)
	}
	w.expect(t, pod, "192.0.2.53", svc, "198.51.100.53")
	// So is one in which it is taken for TCP alone.
	taken.Close()
	var tcp net.Listener
	pod.Do(func() {
		var err error
		if tcp, err = net.Listen("tcp", "127.0.0.1:15053"); err != nil {
			t.Fatal(err)
		}
	})
	defer tcp.Close()
	if err := w.client().Add(t.Context(), first); err == nil || !strings.Contains(err.Error(), "address already in use") || !strings.Contains(err.Error(), "is no resolver") {
		t.Errorf("taken port %s: %v", tcp.Addr(), err)
	}
	w.expect(t, pod, "192.0.2.53", svc, "198.51.100.53")
	agent.end(t, unix.SIGTERM)
}
