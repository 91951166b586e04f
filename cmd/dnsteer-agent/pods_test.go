// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
	"github.com/dnsteer/dnsteer/resolver"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// container is a process of a pod: below its own root, with a socket that it connected to
// a nameserver when it began. It asks what its input says with that socket, and prints
// the address, until its input ends.
func container(args []string) int {
	conn, err := net.Dial("udp", args[1]+":53")
	if err == nil {
		err = unix.Chroot(args[0])
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	for names := bufio.NewScanner(os.Stdin); names.Scan(); {
		fmt.Println(askConnected(conn, names.Text()))
	}
	return 0
}

func askConnected(conn net.Conn, name string) string {
	client := dns.Client{Timeout: 5 * time.Second}
	query := new(dns.Msg).SetQuestion(name, dns.TypeA)
	for range 3 { // a look-up repeats what is lost
		m, _, err := client.ExchangeWithConn(query, &dns.Conn{Conn: conn})
		if err != nil {
			continue
		}
		for _, rr := range m.Answer {
			if a, ok := rr.(*dns.A); ok {
				return a.A.String()
			}
		}
		return dns.RcodeToString[m.Rcode]
	}
	return "no answer"
}

// runningPod is a pod as a kubelet makes one.
type runningPod struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// runPod starts a process in the cgroup of a pod, with a resolv.conf.
func (w *world) runPod(t testing.TB, ns *testenv.NetNS, uid, conf string) *runningPod {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(root, "etc/resolv.conf"), conf)
	cg := filepath.Join(w.cgroup.Path, "kubepods", "pod"+uid, "c1")
	if err := os.MkdirAll(cg, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(cg)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	r := &runningPod{t: t, cmd: testenv.Command(t, "container", root, "192.0.2.53")}
	w.cgroup.Enter(r.cmd)
	r.cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.out = bufio.NewReader(out)
	ns.For(t).Start(r.cmd)
	if line := r.line(); line != "ready" {
		t.Fatalf("container: %s", line)
	}
	return r
}

func (r *runningPod) line() string {
	line, err := r.out.ReadString('\n')
	if err != nil {
		r.t.Errorf("container: %v", err)
	}
	return strings.TrimSpace(line)
}

// ask asks with the socket that the container connected when it began.
func (r *runningPod) ask(name string) string {
	r.t.Helper()
	r.say(name)
	return r.line()
}

func (r *runningPod) say(name string) {
	r.t.Helper()
	if _, err := io.WriteString(r.in, name+"\n"); err != nil {
		r.t.Error(err)
	}
}

func (r *runningPod) end() {
	r.in.Close()
	_ = r.cmd.Wait()
}

const (
	uidA = "8f2d1c3e-0a1b-4c5d-9e8f-00000000000a"
	uidB = "8f2d1c3e-0a1b-4c5d-9e8f-00000000000b"

	confA = "search example.org\nnameserver 192.0.2.53\n"
)

// becomesConnected waits until a connected socket is answered so.
func (r *runningPod) becomes(want string) {
	r.t.Helper()
	testenv.Eventually(r.t, patience, func() error {
		if got := r.ask(svc); got != want {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	})
}

// A pod that nobody announced is found by its processes: one that ran before the agent,
// with the sockets that it had connected, and one that came without an ADD. Its
// resolv.conf is its own. When it has gone, so has its scope.
func TestPodsThatRan(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	podA, serverA := testenv.NewLink(t)
	podB, serverB := testenv.NewLink(t)
	nameserver(t, serverA, "192.0.2.53")
	nameserver(t, serverB, "192.0.2.53")
	a := w.runPod(t, podA, uidA, "search cluster-2.example.org\nnameserver 192.0.2.53\n")
	if got := a.ask(svc); got != "198.51.100.53" {
		t.Fatalf("before the agent: %s", got)
	}
	agent := w.start(t, testenv.NewNetNS(t))
	if got := a.ask(svc); got != fromTab {
		t.Errorf("a socket that was connected before: %s", got)
	}
	w.expect(t, podA, "192.0.2.53", svc, fromTab)
	w.expect(t, podA, "192.0.2.53", "svc.cluster-2.example.org.cluster-2.example.org.", fromTab)
	w.expect(t, podA, "192.0.2.53", "www.example.org.", "198.51.100.53")

	b := w.runPod(t, podB, uidB, confA)
	b.becomes(fromTab)

	// Nobody restarts a pod when the agent is, and none forgets it.
	agent.end(t, unix.SIGKILL)
	w.expect(t, podA, "192.0.2.53", svc, "198.51.100.53")
	agent = w.start(t, testenv.NewNetNS(t))
	if got := a.ask(svc); got != fromTab {
		t.Errorf("after a restart: %s", got)
	}
	b.end()
	agent.letsGo(t, podB)
	w.expect(t, podB, "192.0.2.53", svc, "198.51.100.53")
	if log := agent.end(t, unix.SIGTERM); strings.Contains(log, "level=WARN") {
		t.Errorf("it complains: %s", log)
	}
	if got := a.ask(svc); got != "198.51.100.53" {
		t.Errorf("a socket that was given back: %s", got)
	}
}

// An answer that is under way reaches a socket of a pod that is moved meanwhile: the agent
// has the privileges that takes.
func TestMovedWhileAsking(t *testing.T) {
	const slow = "slow.example.org."
	w := newWorld(t)
	defer w.unload(t)
	pod, server := testenv.NewLink(t)
	asked, answer := make(chan struct{}, 3), make(chan struct{})
	answering := testenv.Answers(netip.MustParseAddr("192.0.2.53"))
	ns := testenv.Nameserver(t, server, netip.MustParseAddrPort("192.0.2.53:53"), dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		if q.Question[0].Name == slow {
			asked <- struct{}{}
			<-answer
		}
		answering.ServeDNS(rw, q)
	}))
	a := w.runPod(t, pod, uidA, confA)
	a.say(slow)
	<-asked
	agent := w.start(t, testenv.NewNetNS(t))
	agent.says(t, "moved connected sockets")
	close(answer)
	if got, n := a.line(), ns.Count(slow); got != "198.51.100.53" || n != 1 {
		t.Errorf("got %q, the nameserver was asked %d times", got, n)
	}
	agent.end(t, unix.SIGTERM)
}

// A pod that listens on the target itself is steered to its own resolver, whoever came
// first, and to the node's when that has gone.
func TestOwnResolver(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	w.runPod(t, pod, uidA, confA)
	started := make(chan *process, 1)
	t.Run("while it listens", func(sub *testing.T) { // and no longer
		own := testenv.Nameserver(sub, pod, netip.MustParseAddrPort("127.0.0.1:15053"), nil)
		started <- w.start(t, testenv.NewNetNS(t))
		w.expect(sub, pod, "192.0.2.53", svc, testenv.AnswerOf(own.Addr.Addr()).String())
	})
	agent := <-started
	w.becomes(t, pod, fromTab)
	agent.end(t, unix.SIGTERM)
}

// A pod whose own resolver is silent holds no other up: both are asked at the same time.
func TestSilentResolvers(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	meet, met := make(chan struct{}), make(chan struct{})
	var once sync.Once
	for _, uid := range []string{uidA, uidB} {
		pod, _ := testenv.NewLink(t)
		w.runPod(t, pod, uid, confA)
		silent := listenUDP(t, pod, "127.0.0.1:15053")
		go func() {
			for {
				if _, _, err := silent.ReadFrom(make([]byte, 512)); err != nil {
					return
				}
				select { // while it is waited for
				case meet <- struct{}{}:
				case <-meet:
					once.Do(func() { close(met) })
				case <-time.After(probeTimeout * 9 / 10):
				}
			}
		}()
	}
	agent := w.start(t, testenv.NewNetNS(t))
	select {
	case <-met:
	case <-time.After(patience):
		t.Error("one is asked after the other")
	}
	agent.end(t, unix.SIGTERM)
}

// A pod whose listener breaks, as when somebody destroys its sockets (ss -K), is steered to a
// new one, and not for ever to where nobody reads.
func TestBrokenListener(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	agent := w.start(t, testenv.NewNetNS(t))
	if err := w.client().Add(t.Context(), podAttachment(t, pod, "pod", "192.0.2.53")); err != nil {
		t.Fatal(err)
	}
	w.expect(t, pod, "192.0.2.53", svc, fromTab)
	breakListeners(t, agent)
	agent.says(t, "stop serving a pod")
	w.becomes(t, pod, fromTab)
	agent.end(t, unix.SIGTERM)
}

// breakListeners ends the TCP sockets on which a process listens.
func breakListeners(t *testing.T, p *process) {
	t.Helper()
	pid := p.cmd.Process.Pid
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(process)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		number, err := strconv.Atoi(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdGetfd(process, number, 0)
		if err != nil { // closed meanwhile
			continue
		}
		listens, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		protocol, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if listens == 1 && protocol == unix.IPPROTO_TCP {
			_ = unix.Shutdown(fd, unix.SHUT_RDWR)
		}
		_ = unix.Close(fd)
	}
}

// Who answers is what the pod's annotation says now, not what it said at first.
func TestResolverChanges(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	pod, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	agent := w.start(t, testenv.NewNetNS(t))
	at := podAttachment(t, pod, "pod", "192.0.2.53")
	for _, step := range []struct{ resolver, want string }{
		{"pod", "198.51.100.53"}, // nobody listens
		{"node", fromTab},
		{"pod", "198.51.100.53"},
	} {
		at.Annotations = map[string]string{cluster.Resolver: step.resolver}
		if err := w.client().Add(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		w.becomes(t, pod, step.want)
	}
	agent.end(t, unix.SIGTERM)
}

// The node's own network is steered if that is asked for, and only then.
func TestHostNetwork(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	node, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	w.runPod(t, node, uidA, confA) // a pod on the node's network
	agent := w.start(t, node)
	w.expect(t, node, "192.0.2.53", svc, "198.51.100.53")
	agent.end(t, unix.SIGTERM)
	agent = w.start(t, node, "-host-network")
	w.expect(t, node, "192.0.2.53", svc, fromTab)
	w.expect(t, node, "192.0.2.53", "www.example.org.", "198.51.100.53")
	agent.end(t, unix.SIGTERM)
	w.expect(t, node, "192.0.2.53", svc, "198.51.100.53")
}

// How long a pod's clients wait, and how often they ask, is what its resolv.conf says: by
// what the runtime tells at first, and then by the file itself. A failure comes before
// they stop listening (resolv.conf(5)).
func TestPodsPatience(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	pod, server := testenv.NewLink(t)
	server.Do(func() {
		silent, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 53), Port: 53})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { silent.Close() })
	})
	agent := w.start(t, testenv.NewNetNS(t))
	becomes := func(name, want string) {
		t.Helper()
		testenv.Eventually(t, patience, func() error {
			var got string
			pod.Do(func() {
				answer, err := resolver.Query(t.Context(), netip.MustParseAddrPort("127.0.0.1:15053"), name, "A", false)
				if got = fmt.Sprint(err); err == nil {
					got, _, _ = strings.Cut(answer.Error, "; ") // and that it is cached
				}
			})
			if !strings.HasSuffix(got, want) {
				return fmt.Errorf("got %q, want %q", got, want)
			}
			return nil
		})
	}
	at := podAttachment(t, pod, "pod-a", "192.0.2.53")
	at.DNS.Options = []string{"ndots:5", "timeout:1", "attempts:1"}
	if err := w.client().Add(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	becomes("a.example.org", "upstream 192.0.2.53:53 timed out after 900ms")
	r := w.runPod(t, pod, uidA, "nameserver 192.0.2.53\noptions timeout:1 attempts:2\n")
	defer r.end()
	becomes("b.example.org", "upstream 192.0.2.53:53 timed out after 2 tries in 900ms")
	agent.end(t, unix.SIGTERM)
}
