// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/handover"
	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/resolver"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// idle is an agent that steers nothing, and a pod in our own namespace.
func idle(t *testing.T) (*agent, *os.File) {
	t.Helper()
	namespace, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { namespace.Close() })
	return &agent{
		log: slog.New(slog.DiscardHandler), pods: make(map[proc.NamespaceID]*pod),
		attachments: make(map[cnirpc.ID]*pod), draining: make(map[proc.NamespaceID]chan struct{}),
	}, namespace
}

// An ADD for which nobody waits may come after its DEL, and is for nothing if the namespace
// has gone; one whose path is not seen from here may be believed else.
func TestAddForNobody(t *testing.T) {
	a, namespace := idle(t)
	a.root, a.store = "/", store{t.TempDir()}
	defer a.letGo()
	at := cnirpc.Attachment{ID: cnirpc.ID{ContainerID: "c1", IfName: "eth0"}, Path: "/run/netns/of-no-pod", Namespace: namespace}
	gone, stop := context.WithCancel(t.Context())
	stop()
	if err := a.Add(gone, at); err == nil || len(a.pods) != 0 || len(a.attachments) != 0 {
		t.Errorf("%v: pods %v, attachments %v", err, a.pods, a.attachments)
	}
	for ctx, path := range map[context.Context]string{t.Context(): at.Path, gone: namespace.Name()} {
		at.Path = path
		if err := a.Add(ctx, at); err != nil || len(a.attachments) != 1 {
			t.Errorf("of %s: %v", path, err)
		}
		if err := a.Del(ctx, at); err != nil {
			t.Error(err)
		}
	}
}

// Where processes cannot be looked at, as without a descriptor left, no pod has gone.
func TestBlind(t *testing.T) {
	a, namespace := idle(t)
	a.scanner = proc.NewScanner(filepath.Join(t.TempDir(), "none"), "/", proc.NamespaceID{})
	p, err := newPod(namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer p.file.Close()
	p.pid, p.confRead = os.Getpid(), time.Now()
	a.pods[p.ns] = p
	a.reconcile()
	if a.pods[p.ns] != p {
		t.Error("a pod was forgotten")
	}
}

// A pod whose namespace is made anew is seen in the new one, while the runtime has not taken the
// old one back; a namespace that a container made for itself is no pod.
func TestNamespaceMadeAnew(t *testing.T) {
	a, _ := idle(t)
	defer a.letGo()
	meet := func(ns *testenv.NetNS, id string) proc.NamespaceID {
		p, err := newPod(ns.File())
		if err != nil {
			t.Fatal(err)
		}
		p.attach(cnirpc.Attachment{ID: cnirpc.ID{ContainerID: id}, Pod: cnirpc.Pod{Name: "pod", UID: uidA}})
		a.attachments[cnirpc.ID{ContainerID: id}] = p
		a.pods[p.ns] = p
		return p.ns
	}
	for i := range 20 { // the old ones are looked at in any order
		meet(testenv.NewNetNS(t), fmt.Sprint("old", i))
	}
	now := meet(testenv.NewNetNS(t), "new")
	a.look(map[string]proc.Sighting{uidA: {Namespace: now, PodUID: uidA, PID: 42}})
	if got := a.pods[now].pid; got != 42 {
		t.Errorf("seen by process %d", got)
	}
	inner := testenv.NewNetNS(t)
	id, err := proc.Identify(inner.File())
	if err != nil {
		t.Fatal(err)
	}
	a.look(map[string]proc.Sighting{uidA: {Namespace: id, PodUID: uidA, PID: 43, Path: inner.Path()}})
	if a.pods[id] != nil {
		t.Error("what a container made for itself is a pod")
	}
}

// A scope that waited for another to begin waits for the end of that, too: both have the same
// port.
func TestBeginAfterBoth(t *testing.T) {
	a, namespace := idle(t)
	p, err := newPod(namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer a.letGo()
	synctest.Test(t, func(t *testing.T) {
		begun, drained, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		a.pods[p.ns], p.beginning = p, begun
		go func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			ended <- a.beginScope(p)
		}()
		synctest.Wait()
		a.mu.Lock()
		p.beginning, a.draining[p.ns] = nil, drained
		a.mu.Unlock()
		close(begun)
		synctest.Wait()
		a.mu.Lock()
		delete(a.draining, p.ns)
		a.closed = true
		a.mu.Unlock()
		close(drained)
		if err := <-ended; !errors.Is(err, cnirpc.ErrUnavailable) {
			t.Error(err)
		}
	})
}

// What another agent steered of the node's own network is not steered by one that is not
// told to.
func TestNodeGivenUp(t *testing.T) {
	for _, steer := range []bool{false, true} {
		a, namespace := idle(t)
		a.policy = policy{all: true, node: steer}
		file, err := os.Open(namespace.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := a.unpack(parcel{IsNode: true, PID: 1}, []*os.File{file}); err != nil {
			t.Fatal(err)
		}
		for _, p := range a.pods {
			if p.decision.steer != steer {
				t.Errorf("with -host-network=%v: %+v", steer, p.decision)
			}
		}
		a.letGo()
	}
}

// namesAgent is an agent with the names of one file.
func namesAgent(t *testing.T) (a *agent, s *settings, path string) {
	t.Helper()
	a, _ = idle(t)
	var err error
	if a.server, err = resolver.New(resolver.Config{Logger: a.log}); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "hosts")
	writeFile(t, path, table)
	s = &settings{sources: []resolver.Source{{Path: path, Format: resolver.FormatHosts}}}
	if err := s.openNames(a); err != nil {
		t.Fatal(err)
	}
	return a, s, path
}

// watch watches the names until the test ends.
func watch(t *testing.T, a *agent, s *settings) {
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() { defer close(watched); s.watchNames(ctx, a) }()
	t.Cleanup(func() { stop(); <-watched })
}

// hasNames waits until the agent knows so many.
func hasNames(t *testing.T, a *agent, want int) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		if names, _ := a.files.Count(); names != want {
			return fmt.Errorf("it has %d names, want %d", names, want)
		}
		return nil
	})
}

// A file that changes after it was read at the start, and before it is watched, is read
// again.
func TestNamesInBetween(t *testing.T) {
	a, s, path := namesAgent(t)
	writeFile(t, path, table+"192.0.2.201 other.example.org\n")
	watch(t, a, s)
	hasNames(t, a, 2)
}

// holdLock takes the lock of an agent that runs, until the test ends.
func holdLock(t *testing.T, s *settings) *os.File {
	t.Helper()
	if err := os.Mkdir(s.runDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := tryLock(s.lockPath())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	return lock
}

// An agent that was asked and has not handed over is not asked again at once.
func TestAskInterval(t *testing.T) {
	s := &settings{socket: filepath.Join(t.TempDir(), "agent.sock")}
	holdLock(t, s)
	l, err := handover.Listen(s.doorPath())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // one that is always willing
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			if c, err := handover.Accept(conn); err == nil {
				_ = c.Send(message{Word: wordWelcome, Version: handoverVersion}, patience)
			}
		}
	}()
	var asked []time.Time
	var last time.Time
	for range 2 {
		c, err := s.acquire(t.Context(), true, &last, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		c.offer.decline()
		asked = append(asked, last)
	}
	if again := asked[1].Sub(asked[0]); again < askInterval {
		t.Errorf("asked again after %v", again)
	}
}

// The agent that hands over dies at its last word: its connection ends before its lock does.
// What one that is told to end then leaves is not taken over: it has ended its scopes.
func TestEndsAtLast(t *testing.T) {
	for _, tc := range []struct {
		name string
		dies bool
	}{{"dies", true}, {"is told to", false}} {
		t.Run(tc.name, func(t *testing.T) {
			a, _ := idle(t)
			s := &settings{socket: filepath.Join(t.TempDir(), "agent.sock")}
			lock := holdLock(t, s)
			tried := watchClosed(t, s.lockPath())
			next, old := handOverAt(t, s.doorPath())
			tn := &tenure{settings: s, agent: a, log: a.log}
			took := make(chan error, 1)
			go func() { took <- tn.takeOver(t.Context(), &offer{conn: next, accepted: true}) }()
			if _, _, err := expect(old, patience, wordServing); err != nil {
				t.Fatal(err)
			}
			old.Close()
			tried()
			if !tc.dies {
				if err := s.removePaths(); err != nil {
					t.Fatal(err)
				}
			}
			lock.Close()
			if err := <-took; (err == nil) != tc.dies || !tc.dies && !errors.Is(err, errNotTaken) {
				t.Error(err)
			}
			again, err := tryLock(s.lockPath())
			if errors.Is(err, unix.EWOULDBLOCK) != tc.dies {
				t.Errorf("the lock: %v", err)
			}
			for _, f := range []*os.File{again, tn.lock} {
				if f != nil {
					f.Close()
				}
			}
		})
	}
}

// handOverAt returns both sides of a hand-over.
func handOverAt(t *testing.T, door string) (next, old *handover.Conn) {
	t.Helper()
	l, err := handover.Listen(door)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if next, err = handover.Dial(t.Context(), door); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.Close)
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	if old, err = handover.Accept(conn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(old.Close)
	return next, old
}

// watchClosed returns what waits until somebody has opened a file for writing and closed it.
func watchClosed(t *testing.T, path string) (wait func()) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	t.Cleanup(func() { f.Close() })
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_CLOSE_WRITE); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := f.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
}
