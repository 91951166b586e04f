// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/cluster"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// unknown is what the cluster's DNS says of tableName.
	unknown = "NXDOMAIN"
	// heartbeat is after how long a resolver that hangs is passed by.
	heartbeat = 2 * time.Second
)

// loads returns the counts of the load pods, by node.
func (w *world) loads() map[string]cluster.Counts {
	counts := map[string]cluster.Counts{}
	for _, pod := range w.loadPods {
		counts[pod.Node] = w.CountsOf(pod.Addr)
	}
	return counts
}

// awaitSteered returns when the load pods get table answers, and n of them in a row
// with nothing else, on every node.
func (w *world) awaitSteered(t *testing.T, n int) {
	t.Helper()
	w.awaitOutcome(t, tableAddr, n)
}

func (w *world) awaitOutcome(t *testing.T, want string, n int) {
	t.Helper()
	from := w.loads()
	testenv.Eventually(t, settleTimeout, func() error {
		for node, now := range w.loads() {
			since := now.Since(from[node]).Outcomes[tableName]
			if len(since) > 1 || (len(since) == 1 && since[want] == 0) {
				from = w.loads() // begin again
				return fmt.Errorf("the load of %s gets %v, not only %s", node, since, want)
			}
			if since[want] < n {
				return fmt.Errorf("the load of %s got %d answers", node, since[want])
			}
		}
		return nil
	})
}

// outage is when queries may be lost: those that an agent had in hand when it went. It is
// known to the moment: the next call goes to the nameserver.
type outage struct{ begin, end time.Time }

// grace is for queries that were sent before an agent went, and not answered: on a busy
// machine it had not had its turn. One that has none for longer is passed by.
const grace = heartbeat

// report wants that only some outcomes were counted since from, and that no query was lost
// but in an outage. It logs the counts.
func (w *world) report(t *testing.T, from map[string]cluster.Counts, out outage, table ...string) {
	t.Helper()
	allowed := map[string][]string{tableName: table, serviceName: {serviceAddr}, cluster.OutsideName: {cluster.OutsideAddr}}
	for node, now := range w.loads() {
		since := now.Since(from[node])
		t.Logf("load of %s: %v", node, since.Outcomes)
		for name, outcomes := range since.Outcomes {
			for _, outcome := range append(allowed[name], "timeout", "refused") {
				delete(outcomes, outcome)
			}
			if len(outcomes) > 0 {
				t.Errorf("load of %s: wrong answers for %s: %v", node, name, outcomes)
			}
		}
		slices.SortFunc(since.Lost, time.Time.Compare)
		wrong := slices.DeleteFunc(slices.Clone(since.Lost), func(sent time.Time) bool {
			return !sent.Before(out.begin.Add(-grace)) && !sent.After(out.end)
		})
		if n := len(wrong); n > 0 {
			t.Errorf("load of %s: %d queries are lost that were sent from %v to %v; agents were away from %v to %v; full receive buffers, by namespace: %v",
				node, n, wrong[0], wrong[n-1], out.begin, out.end, w.overflows(t))
		}
		if n := len(since.Lost); n > 0 {
			t.Logf("load of %s: %d queries lost, the last %v after the agent went", node, n, since.Lost[n-1].Sub(out.begin).Round(time.Millisecond))
		}
	}
}

// overflows tells where datagrams were dropped that nobody fetched in time, by network
// namespace, with a program that runs there: who loses a query like that had no turn.
func (w *world) overflows(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, n := range w.Nodes {
		for _, program := range []string{"coredns", "pod", "dnsteer-agent"} {
			for _, pid := range n.Processes(program) {
				dir := fmt.Sprintf("/proc/%d", pid)
				ns, nsErr := os.Readlink(dir + "/ns/net")
				text, err := os.ReadFile(dir + "/net/snmp")
				if errors.Join(nsErr, err) != nil {
					continue // it has ended
				}
				if dropped := udpCounter(string(text), "RcvbufErrors"); dropped != "0" {
					found[ns] = fmt.Sprintf("%s on %s: %s", program, n.Name, dropped)
				}
			}
		}
	}
	return found
}

// udpCounter is one of those of UDP, of a file /proc/PID/net/snmp: a line of names, and one
// of values.
func udpCounter(snmp, name string) string {
	var names []string
	for line := range strings.Lines(snmp) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, name); i >= 0 && i < len(fields) {
			return fields[i]
		}
	}
	return "unknown"
}

// settle returns when every query that was sent by now has its outcome.
func (w *world) settle(t *testing.T) {
	t.Helper()
	now := time.Now()
	testenv.Eventually(t, settleTimeout, func() error {
		for node, counts := range w.loads() {
			if counts.Settled.Before(now) {
				return fmt.Errorf("the load of %s has queries that wait since %v", node, counts.Settled)
			}
		}
		return nil
	})
}

// kill: agents die, and nothing but table names suffers, until kubelet has started them
// again. Lost is what they had in hand.
func kill(t *testing.T, w *world) {
	w.awaitSteered(t, 100)
	from := w.loads()
	out := outage{begin: time.Now()}
	var ends []func()
	for _, n := range w.Nodes {
		pids := n.Processes("dnsteer-agent")
		if len(pids) == 0 {
			t.Fatalf("no agent runs on %s", n.Name)
		}
		for _, pid := range pids {
			ends = append(ends, awaitEnd(t, pid))
			signalAgent(t, pid, unix.SIGKILL)
		}
	}
	for _, end := range ends {
		end()
	}
	out.end = time.Now() // the kernel, too, may take a while on a busy machine
	w.awaitAgents(t)
	w.awaitSteered(t, 200)
	w.settle(t)
	w.report(t, from, out, tableAddr, unknown)
}

// awaitEnd returns a function that returns when a process has ended, and closed its sockets.
func awaitEnd(t *testing.T, pid int) func() {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return func() {}
	}
	if err != nil {
		t.Fatalf("open process: %v", err)
	}
	return func() {
		defer unix.Close(fd)
		testenv.Eventually(t, settleTimeout, func() error {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
			if n == 0 || err != nil {
				return fmt.Errorf("process %d has not ended: %w", pid, err)
			}
			return nil
		})
	}
}

// signalAgent signals a process of the agent's program; a probe may have ended meanwhile,
// and kubelet ends an agent that hangs.
func signalAgent(t *testing.T, pid int, s unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Fatalf("signal agent: %v", err)
	}
}

func (w *world) signalAgents(t *testing.T, s unix.Signal) {
	t.Helper()
	for _, n := range w.Nodes {
		for _, pid := range n.Processes("dnsteer-agent") {
			signalAgent(t, pid, s)
		}
	}
}

// stop: agents hang; within the heartbeat all names but the table's are answered.
func stop(t *testing.T, w *world) {
	from := w.loads()
	stopped := time.Now()
	w.signalAgents(t, unix.SIGSTOP)
	signalled := time.Now()
	w.awaitOutcome(t, unknown, 100)
	t.Logf("100 answers in a row from the cluster's DNS %v after SIGSTOP", time.Since(stopped).Round(time.Millisecond))
	w.settle(t)
	w.report(t, from, outage{stopped, signalled.Add(heartbeat)}, tableAddr, unknown)
	w.signalAgents(t, unix.SIGCONT)
	w.awaitSteered(t, 200)
}

// upgrade: the successor takes over while queries come; none is lost, none wrong.
func upgrade(t *testing.T, w *world) {
	next := w.makeImage(t, nextImage)
	for _, n := range w.Nodes {
		n.Load(next)
	}
	w.settle(t)
	from := w.loads()
	w.Kubectl("-n", namespace, "set", "image", daemonSet, "agent="+nextImage)
	w.awaitAgents(t)
	for _, pod := range w.Pods(namespace, "app.kubernetes.io/name=dnsteer-agent") {
		if len(pod.Images) != 1 || pod.Images[0] != nextImage {
			t.Errorf("%s runs %v", pod.Name, pod.Images)
		}
	}
	w.settle(t)
	w.report(t, from, outage{}, tableAddr)
	w.wantMetrics(t)
}

// uninstall: the same command the other way round; no query is lost, nothing is left.
func uninstall(t *testing.T, w *world) {
	from := w.loads()
	w.Kubectl("delete", "-k", overlayDir(t), rollTimeout)
	w.awaitOutcome(t, unknown, 100)
	w.settle(t)
	w.report(t, from, outage{}, tableAddr, unknown)
	for i, n := range w.Nodes {
		if pids := n.Processes("dnsteer-agent"); len(pids) > 0 {
			t.Errorf("agents still run on %s: %v", n.Name, pids)
		}
		if got := n.Read(conflistPath); got != w.conflists[i] {
			t.Errorf("conflist of %s is not what it was:\n%s", n.Name, got)
		}
		for _, path := range []string{"/sys/fs/bpf/dnsteer", "/opt/cni/bin/dnsteer-cni", "/run/dnsteer/agent.sock"} {
			if n.Exists(path) {
				t.Errorf("%s is still on %s", path, n.Name)
			}
		}
	}
	w.Apply(clientPod("after", "n1", ""))
	w.AwaitPod("after")
	w.wantNothing(t, "after", tableName)
	w.wantAddr(t, "after", serviceName, serviceAddr)
}
