// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// becomes waits until a query is answered so.
func (w *world) becomes(t testing.TB, ns *testenv.NetNS, want string) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		if got := w.resolve(t, ns, "192.0.2.53", svc); got != want {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	})
}

// An agent that hangs is passed by, and no pod waits for it longer than the plugin does.
func TestHung(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	agent := w.start(t, server)
	at := podAttachment(t, pod, "pod", "192.0.2.53")
	if err := w.client().Add(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	w.expect(t, pod, "192.0.2.53", svc, fromTab)
	if err := agent.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.becomes(t, pod, "198.51.100.53")
	short := cnirpc.Client{Socket: w.socket(), Timeout: 100 * time.Millisecond}
	if err := short.Add(t.Context(), at); !errors.Is(err, cnirpc.ErrAway) {
		t.Errorf("add with a hung agent: %v", err)
	}
	if exec.Command(w.binary, append(w.args(), "-probe=alive")...).Run() == nil {
		t.Error("an agent that hangs counts as alive")
	}
	if err := agent.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	w.becomes(t, pod, fromTab)
	agent.end(t, unix.SIGTERM)
}

// A pod that came and went while the agent hung is not kept by its ADD, which is heard then.
func TestAddHeardLate(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	agent := w.start(t, testenv.NewNetNS(t))
	pod := testenv.NewNetNS(t)
	fd, err := unix.FcntlInt(pod.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := podAttachment(t, pod, "short-lived", "192.0.2.53")
	at.Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	if err := agent.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	short := cnirpc.Client{Socket: w.socket(), Timeout: 100 * time.Millisecond}
	if err := short.Add(t.Context(), at); !errors.Is(err, cnirpc.ErrAway) {
		t.Errorf("add with a hung agent: %v", err)
	}
	if err := unix.Close(fd); err != nil { // as a runtime unmounts it
		t.Fatal(err)
	}
	if err := agent.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	agent.says(t, "answer add of short-lived")
	agent.letsGo(t, pod)
	agent.end(t, unix.SIGTERM)
}

// A pod that began while the agent hung is steered with the sockets that it connected
// meanwhile, although its ADD is heard then.
func TestAddHeardLateOfPodThatRuns(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	agent := w.start(t, testenv.NewNetNS(t))
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	if err := agent.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	at := podAttachment(t, pod, "late", "192.0.2.53")
	at.Pod.UID = uidA
	short := cnirpc.Client{Socket: w.socket(), Timeout: 100 * time.Millisecond}
	if err := short.Add(t.Context(), at); !errors.Is(err, cnirpc.ErrAway) {
		t.Errorf("add with a hung agent: %v", err)
	}
	a := w.runPod(t, pod, uidA, confA)
	if got := a.ask(svc); got != "198.51.100.53" {
		t.Errorf("while the agent hangs: %s", got)
	}
	if err := agent.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	a.becomes(fromTab)
	agent.end(t, unix.SIGTERM)
}

// Pods that come and go by the dozen, the same namespace again at once: nothing fails,
// nothing is left.
func TestChurn(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	agent := w.start(t, testenv.NewNetNS(t))
	const pods, rounds = 4, 25
	var all sync.WaitGroup
	var namespaces []*testenv.NetNS
	for i := range pods {
		ns := testenv.NewNetNS(t)
		namespaces = append(namespaces, ns)
		at := podAttachment(t, ns, fmt.Sprintf("pod-%d", i), "192.0.2.53")
		all.Go(func() {
			for range rounds {
				for _, err := range []error{w.client().Add(t.Context(), at), w.client().Check(t.Context(), at), w.client().Del(t.Context(), at)} {
					if err != nil {
						t.Errorf("%s: %v", at.ContainerID, err)
					}
				}
			}
		})
	}
	all.Wait()
	for _, ns := range namespaces {
		agent.letsGo(t, ns)
	}
	if log := agent.end(t, unix.SIGTERM); strings.Contains(log, "level=WARN") {
		t.Errorf("it complains: %s", log)
	}
}

// What is remembered is a hint: damaged files, and pods that are others now.
func TestStore(t *testing.T) {
	s := store{filepath.Join(t.TempDir(), "state")}
	if got := s.all(); len(got) != 0 {
		t.Errorf("of no directory: %v", got)
	}
	id := cnirpc.ID{ContainerID: "c1", IfName: "eth0"}
	for _, r := range []record{
		{Attachment: cnirpc.Attachment{ID: id, Network: "old"}, Dev: 1, Ino: 2},
		{Attachment: cnirpc.Attachment{ID: id, Network: "pods"}, Dev: 4, Ino: 5},
		{Attachment: cnirpc.Attachment{ID: cnirpc.ID{ContainerID: "c1_eth0", IfName: "x"}}, Dev: 6, Ino: 7},
		{Attachment: cnirpc.Attachment{ID: cnirpc.ID{ContainerID: "c1", IfName: "eth0_x"}}, Dev: 8, Ino: 9},
		{Attachment: cnirpc.Attachment{ID: cnirpc.ID{ContainerID: "../../c2", IfName: ".."}}, Dev: 10, Ino: 11},
	} {
		if err := s.put(r); err != nil {
			t.Fatal(err)
		}
	}
	got := make(map[cnirpc.ID]record)
	for _, r := range s.all() {
		got[r.Attachment.ID] = r
	}
	if r := got[id]; len(got) != 4 || r.Attachment.Network != "pods" || r.Ino != 5 {
		t.Errorf("remembered %+v", got)
	}
	if outside, _ := filepath.Glob(filepath.Join(filepath.Dir(s.dir), "*.json")); len(outside) > 0 {
		t.Errorf("files outside: %v", outside)
	}
	if err := errors.Join(s.remove(id), s.remove(id)); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{"2_c9_eth0.json": "{", "x.json": `{}`, "2_c1_eth0.json.new": "{}"} {
		writeFile(t, filepath.Join(s.dir, name), text)
	}
	if got := s.all(); len(got) != 3 {
		t.Errorf("with damaged files: %+v", got)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "*")); len(left) != 3 {
		t.Errorf("damaged files are left: %v", left)
	}
}

// What an agent that was killed has enrolled for pods' own resolvers ends with those pods, and
// where policy is another when the next one comes; what somebody else has enrolled does not.
func TestLeftByKilled(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	node := testenv.NewNetNS(t)
	agent := w.start(t, node)
	d, err := loader.Open(w.opts())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	stays, unwanted, gone := testenv.NewNetNS(t), testenv.NewNetNS(t), testenv.NewNetNS(t)
	for _, pod := range []struct {
		ns          *testenv.NetNS
		annotations map[string]string
	}{
		{stays, map[string]string{cluster.Resolver: "pod", cluster.Steer: "true"}},
		{unwanted, map[string]string{cluster.Resolver: "pod"}},
		{gone, map[string]string{cluster.Resolver: "pod", cluster.Steer: "true"}},
	} {
		at := podAttachment(t, pod.ns, fmt.Sprint(pod.ns.Cookie()), "192.0.2.53")
		at.Annotations = pod.annotations
		if pod.ns == gone {
			at.Path = filepath.Join(w.dir, "gone") // nothing is there when the next agent looks
		}
		if err := w.client().Add(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	other, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	own := testenv.Nameserver(t, other, netip.MustParseAddrPort("127.0.0.1:15053"), nil)
	scope := loader.Scope{OwnerUID: loader.DefaultOwner, OwnerGID: loader.DefaultOwner}
	if err := d.EnrolNamespace(other.Cookie(), scope, true); err != nil {
		t.Fatal(err)
	}
	want := func(when string, want ...uint64) {
		t.Helper()
		got, err := d.NodeNamespaces()
		slices.Sort(want)
		if !slices.Equal(got, want) || err != nil {
			t.Errorf("%s %v are enrolled, want %v: %v", when, got, want, err)
		}
	}
	want("while it runs", stays.Cookie(), unwanted.Cookie(), gone.Cookie())
	agent.end(t, unix.SIGKILL)
	want("after it was killed", stays.Cookie(), unwanted.Cookie(), gone.Cookie())
	agent = w.start(t, node, "-steer=marked")
	want("when the next one serves", stays.Cookie())
	agent.end(t, unix.SIGTERM)
	want("after that has ended")
	w.expect(t, other, "192.0.2.53", svc, testenv.AnswerOf(own.Addr.Addr()).String())
}

// An agent that adopts a datapath that leaves nameservers alone says so.
func TestAdoptsLists(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	opts := w.opts()
	opts.Except = []netip.Prefix{netip.MustParsePrefix("192.0.2.53/32")}
	d, err := loader.Load(opts)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	agent := w.start(t, testenv.NewNetNS(t))
	if log := agent.end(t, unix.SIGTERM); !strings.Contains(log, "only=[] except=[192.0.2.53/32]") {
		t.Errorf("it does not say so: %s", log)
	}
}

// A full disk keeps nobody from being steered, only from being known by its attachment
// after a restart; who runs is found all the same.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	state := filepath.Join(w.dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=4k,nr_inodes=2"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	agent := w.start(t, testenv.NewNetNS(t))
	writeFile(t, filepath.Join(state, "full"), strings.Repeat("x", 4096))
	at := podAttachment(t, pod, "pod", "192.0.2.53")
	if err := w.client().Add(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	w.expect(t, pod, "192.0.2.53", svc, fromTab)
	w.runPod(t, pod, uidA, confA)
	log := agent.end(t, unix.SIGKILL)
	if !strings.Contains(log, "will not be found by its attachment") {
		t.Errorf("it does not tell: %s", log)
	}
	agent = w.start(t, testenv.NewNetNS(t))
	w.expect(t, pod, "192.0.2.53", svc, fromTab)
	if err := w.client().Del(t.Context(), at); err != nil {
		t.Errorf("del of what nobody remembers: %v", err)
	}
	agent.end(t, unix.SIGTERM)
}

// Pods that begin and end while the agent looks for them leave nothing behind.
func TestVanished(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	agent := w.start(t, testenv.NewNetNS(t))
	var all sync.WaitGroup
	stays, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	var namespaces []*testenv.NetNS
	for i := range 4 {
		ns, _ := testenv.NewLink(t)
		namespaces = append(namespaces, ns)
		all.Go(func() {
			for round := range 10 {
				w.runPod(t, ns, fmt.Sprintf("8f2d1c3e-0a1b-4c5d-9e8f-0000000%d%04d", i, round), confA).end()
			}
		})
	}
	w.runPod(t, stays, uidA, confA).becomes(fromTab)
	all.Wait()
	for _, ns := range namespaces {
		agent.letsGo(t, ns)
	}
	if log := agent.end(t, unix.SIGTERM); strings.Contains(log, "level=WARN") {
		t.Errorf("it complains: %s", log)
	}
}
