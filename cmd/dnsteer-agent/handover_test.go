// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/handover"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// takesOver starts the next agent, and returns when it has taken over.
func (w *world) takesOver(t testing.TB, more ...string) *process {
	t.Helper()
	next := w.launch(t, testenv.NewNetNS(t), more...)
	next.says(t, "msg=serving")
	if !strings.Contains(next.log.String(), "took over") {
		t.Fatalf("it has begun anew: %s", next.log.String())
	}
	return next
}

// pods are two with a nameserver each, announced to the agent.
func (w *world) twoPods(t testing.TB) []*testenv.NetNS {
	t.Helper()
	var pods []*testenv.NetNS
	for i := range 2 {
		pod, server := testenv.NewLink(t)
		nameserver(t, server, "192.0.2.53")
		pods = append(pods, pod)
		if err := w.client().Add(t.Context(), podAttachment(t, pod, fmt.Sprintf("pod-%d", i), "192.0.2.53")); err != nil {
			t.Fatal(err)
		}
	}
	return pods
}

// An agent takes over from another, and that from the next, under load: no query is lost
// or answered by anybody but the resolver. The one that handed over may be ended in any
// way, and runs again if all after it have died.
func TestHandOver(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	first := w.start(t, testenv.NewNetNS(t))
	var loads []*runningLoad
	for _, pod := range w.twoPods(t) {
		loads = append(loads, w.startLoad(t, pod, 2500))
	}
	second := w.takesOver(t)
	first.says(t, "handed over")
	third := w.takesOver(t)
	second.says(t, "handed over")
	if log := first.end(t, unix.SIGTERM); strings.Contains(log, "level=WARN") {
		t.Errorf("the first complains: %s", log)
	}
	second.end(t, unix.SIGKILL)
	fourth := w.takesOver(t)
	for _, l := range loads {
		l.stop(t).wantAllRight(t)
	}
	// A plugin that asks in between is answered by whoever has the socket.
	pod := testenv.NewNetNS(t)
	at := podAttachment(t, pod, "new", "192.0.2.53")
	if err := w.client().Add(t.Context(), at); err != nil {
		t.Error(err)
	}
	fourth.end(t, unix.SIGKILL)
	third.says(t, "restored")
	testenv.Eventually(t, patience, func() error { return w.client().Check(t.Context(), at) })
	third.end(t, unix.SIGTERM)
}

// The next agent's datapath has another layout, so it cannot take over what is attached: the
// old one ends its scopes, the next loads anew, and steers the same pods. Meanwhile queries
// go to their nameserver; none is lost.
func TestHandOverLayout(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	first := w.start(t, testenv.NewNetNS(t))
	pods := w.twoPods(t)
	pod := w.runPod(t, pods[0], uidA, confA) // with a connected socket
	if got := pod.ask(svc); got != fromTab {
		t.Errorf("steered: %s", got)
	}
	var loads []*runningLoad
	for _, pod := range pods {
		loads = append(loads, w.startLoad(t, pod, 250))
	}
	w.otherLayout(t)
	next := w.launch(t, testenv.NewNetNS(t))
	next.says(t, "msg=serving")
	first.says(t, "the next agent's datapath has another layout")
	first.says(t, "handed over")
	for _, pod := range pods {
		w.expect(t, pod, "192.0.2.53", svc, fromTab)
	}
	if got := pod.ask(svc); got != fromTab {
		t.Errorf("by a connected socket: %s", got)
	}
	for _, l := range loads {
		sum := l.stop(t)
		direct := sum.Wrong["198.51.100.53"]
		t.Logf("%d of %d queries for names of the table were answered by the nameserver", direct, sum.Sent)
		if sum.Right == 0 || sum.Lost > 0 || sum.Right+direct != sum.Sent {
			t.Errorf("of %d queries %d were right, %d lost, wrong: %v", sum.Sent, sum.Right, sum.Lost, sum.Wrong)
		}
	}
	first.end(t, unix.SIGTERM)
	next.end(t, unix.SIGTERM)
}

// The next agent dies after it has unloaded a datapath of another layout: the old one begins
// anew, with one of its own.
func TestHandOverLayoutBreaks(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	agent := w.start(t, testenv.NewNetNS(t))
	pods := w.twoPods(t)
	c := w.knock(t)
	for _, m := range []struct{ say, hear word }{{wordHello, wordWelcome}, {wordEnd, wordPod}} {
		if err := c.Send(message{Word: m.say, Version: handoverVersion}, patience); err != nil {
			t.Fatal(err)
		}
		_, files, err := expect(c, patience, m.hear)
		if err != nil {
			t.Fatal(err)
		}
		handover.CloseAll(files)
	}
	if err := loader.Unload(w.opts(), 0); err != nil {
		t.Fatal(err)
	}
	c.Close()
	for _, pod := range pods {
		w.becomes(t, pod, fromTab)
	}
	agent.end(t, unix.SIGTERM)
}

// otherLayout makes the datapath one that another version loaded.
func (w *world) otherLayout(t *testing.T) {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(w.bpffs, "dnsteer", "*", "maps", "steer_about"))
	if err != nil || len(pins) != 1 {
		t.Fatalf("find the datapath: %v, %v", pins, err)
	}
	about, err := ebpf.LoadPinnedMap(pins[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer about.Close()
	value, err := about.LookupBytes(uint32(0)) // the layout comes first
	if err != nil {
		t.Fatal(err)
	}
	value[0]++
	if err := about.Put(uint32(0), value); err != nil {
		t.Fatal(err)
	}
}

// An instance that has handed over waits when it is started again, and does not take back
// what its successor has.
func TestRelieved(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	old := w.start(t, testenv.NewNetNS(t), "-instance", "old")
	w.twoPods(t)
	w.probes(t, true) // tests and agents are in one cgroup here, as a container is
	next := w.takesOver(t, "-instance", "next")
	old.says(t, "handed over")
	old.end(t, unix.SIGKILL)
	again := w.launch(t, testenv.NewNetNS(t), "-instance", "old")
	again.says(t, "no agent is asked to hand over")
	// The same that was started again after a crash may.
	if log := next.end(t, unix.SIGKILL); strings.Contains(log, "handed over") {
		t.Errorf("it has been taken back: %s", log)
	}
	again.says(t, "msg=serving")
	next = w.takesOver(t, "-instance", "next")
	again.says(t, "handed over")
	again.end(t, unix.SIGTERM)
	next.end(t, unix.SIGTERM)
	w.probes(t, false)
}

// probes asks as the kubelet does: an agent that serves in the same cgroup is ready, one
// elsewhere, or none, is not; nothing of that is dead. One that hangs is both.
func (w *world) probes(t *testing.T, ready bool) {
	t.Helper()
	probe := func(what string, elsewhere bool) error {
		cmd := exec.Command(w.binary, append(w.args(), "-probe="+what)...)
		if elsewhere {
			w.cgroup.Enter(cmd)
		}
		return cmd.Run()
	}
	if err := probe("ready", false); (err == nil) != ready {
		t.Errorf("ready: %v, want %v", err, ready)
	}
	if probe("ready", true) == nil {
		t.Error("an agent of another container makes this one ready")
	}
	for _, elsewhere := range []bool{false, true} {
		if err := probe("alive", elsewhere); err != nil {
			t.Errorf("alive: %v", err)
		}
	}
}

// The next agent dies at each step of the hand-over: the one that runs goes on, and is
// asked again.
func TestHandOverBreaks(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	agent := w.start(t, testenv.NewNetNS(t))
	pods := w.twoPods(t)
	var loads []*runningLoad
	for _, pod := range pods {
		loads = append(loads, w.startLoad(t, pod, 250))
	}
	for _, stage := range []word{wordHello, wordWelcome, wordSend, wordPod, wordGot, wordAll, wordServing, wordYours} {
		c := w.knock(t)
		w.dieAt(t, c, stage)
		c.Close()
		if err := w.client().Add(t.Context(), podAttachment(t, pods[0], "pod-0", "192.0.2.53")); err != nil {
			t.Errorf("after %q: %v", stage, err)
		}
		for _, pod := range pods {
			w.expect(t, pod, "192.0.2.53", svc, fromTab)
		}
	}
	next := w.takesOver(t)
	for _, l := range loads {
		l.stop(t).wantAllRight(t)
	}
	agent.end(t, unix.SIGTERM)
	next.end(t, unix.SIGTERM)
}

// knock connects to the agent that runs, as the next one.
func (w *world) knock(t testing.TB) *handover.Conn {
	t.Helper()
	c, err := handover.Dial(t.Context(), filepath.Join(w.socket()+".d", "next"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// dieAt plays the next agent up to a word, its own or the other's.
func (w *world) dieAt(t testing.TB, c *handover.Conn, stage word) {
	t.Helper()
	say := func(m word) bool {
		if err := c.Send(message{Word: m, Version: handoverVersion}, patience); err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		return m == stage
	}
	hear := func(m word, other ...word) (word, bool) {
		got, files, err := expect(c, patience, append(other, m)...)
		handover.CloseAll(files)
		if err != nil {
			t.Fatal(err)
		}
		return got.Word, got.Word == stage
	}
	if say(wordHello) {
		return
	}
	if _, end := hear(wordWelcome); end || say(wordSend) {
		return
	}
	for {
		got, end := hear(wordPod, wordAll)
		if end {
			return
		}
		if got == wordAll {
			break
		}
		if say(wordGot) {
			return
		}
	}
	if say(wordServing) {
		return
	}
	hear(wordYours)
}

// Both are killed at times that nobody chose. What is left runs, within a moment.
func TestHandOverKilled(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	agent := w.start(t, testenv.NewNetNS(t))
	pods := w.twoPods(t)
	for round := range 10 {
		next := w.launch(t, testenv.NewNetNS(t))
		// Programs are loaded in 100 ms or so, and then it is a matter of milliseconds.
		<-time.After(time.Duration(random.IntN(400)) * time.Millisecond)
		victim, heir := agent, next
		if round%2 == 0 {
			victim, heir = next, agent
		}
		victim.end(t, unix.SIGKILL)
		for _, pod := range pods {
			w.becomes(t, pod, fromTab)
		}
		testenv.Eventually(t, patience, func() error { return w.client().Status(t.Context()) })
		agent = heir
	}
	agent.end(t, unix.SIGTERM)
}

// Nobody but an agent is heard, and what it says is judged.
func TestHandOverRefuses(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	agent := w.start(t, testenv.NewNetNS(t))
	pod := w.twoPods(t)[0]
	for _, say := range []message{{Word: wordSend}, {Word: wordHello, Version: handoverVersion + 1}, {}} {
		c := w.knock(t)
		if err := c.Send(say, patience, os.Stdin); err != nil {
			t.Fatal(err)
		}
		if m, _, err := expect(c, patience, wordWelcome); err == nil {
			t.Errorf("%+v was answered: %+v", say, m)
		}
		c.Close()
	}
	conn, err := net.Dial("unixpacket", filepath.Join(w.socket()+".d", "next"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write([]byte("{"))
	conn.Close()
	w.expect(t, pod, "192.0.2.53", svc, fromTab)
	w.takesOver(t).end(t, unix.SIGTERM)
	agent.end(t, unix.SIGTERM)
}
