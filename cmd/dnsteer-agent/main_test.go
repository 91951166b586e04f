// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// patience bounds what takes milliseconds on an idle machine.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	testenv.Main(m, testenv.Roles{"ask": ask, "container": container, "load": load, "questions": questions})
}

// ask is an application: it resolves a name with the nameserver of its choice, by a device
// if it is told one, which nobody can steer.
func ask(args []string) int {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		if len(args) > 2 {
			d.Control = func(_, _ string, raw syscall.RawConn) (err error) {
				return errors.Join(raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), args[2]) }), err)
			}
		}
		return d.DialContext(ctx, network, args[0]+":53")
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addrs, err := r.LookupNetIP(ctx, "ip4", args[1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(addrs[0].Unmap())
	return 0
}

// world is a node: a cgroup whose sockets are steered, and what the agent needs.
type world struct {
	cgroup        *testenv.Cgroup
	bpffs, dir    string
	binary, names string
}

const table = `192.0.2.200 svc.cluster-2.example.org
`

func newWorld(t testing.TB) *world {
	t.Helper()
	testenv.Privileged(t)
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{
		cgroup: testenv.NewCgroup(t), bpffs: testenv.BPFFS(t), dir: dir,
		binary: build(t, "dnsteer-agent"), names: filepath.Join(dir, "hosts"),
	}
	writeFile(t, w.names, table)
	return w
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// build builds one of our commands as it is shipped, once in a run.
func build(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(os.TempDir(), name) // below the run directory
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", "build", "-o", path, "../"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", name, err, out)
	}
	return path
}

func (w *world) socket() string        { return filepath.Join(w.dir, "agent.sock") }
func (w *world) client() cnirpc.Client { return cnirpc.Client{Socket: w.socket(), Timeout: patience} }
func (w *world) opts() loader.Options {
	return loader.Options{Cgroup: w.cgroup.Path, BPFFS: w.bpffs}
}

// process is a running agent.
type process struct {
	cmd *exec.Cmd
	log testenv.LogBook
}

// says returns when the agent has logged that.
func (p *process) says(t testing.TB, text string) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		if log := p.log.String(); !strings.Contains(log, text) {
			return fmt.Errorf("it does not say %q: %s", text, log)
		}
		return nil
	})
}

// start runs the agent in a namespace, and returns when it serves.
func (w *world) start(t testing.TB, ns *testenv.NetNS, more ...string) *process {
	t.Helper()
	p := w.launch(t, ns, more...)
	p.says(t, "msg=serving")
	return p
}

// args keep the agent in this world.
func (w *world) args() []string {
	return []string{"-socket", w.socket(), "-state", filepath.Join(w.dir, "state"),
		"-cgroup", w.cgroup.Path, "-bpffs", w.bpffs, "-hosts", w.names}
}

// launch runs the agent.
func (w *world) launch(t testing.TB, ns *testenv.NetNS, more ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(w.binary, append(w.args(), more...)...)}
	p.cmd.Stderr = &p.log
	ns.For(t).Start(p.cmd)
	return p
}

// end ends the agent with a signal, and returns what it logged.
func (p *process) end(t testing.TB, signal unix.Signal) string {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	err := p.cmd.Wait()
	if signal == unix.SIGTERM && err != nil {
		t.Errorf("agent: %v: %s", err, p.log.String())
	}
	return p.log.String()
}

// podAttachment is of a pod in a namespace.
func podAttachment(t testing.TB, ns *testenv.NetNS, id, nameserver string, search ...string) cnirpc.Attachment {
	t.Helper()
	return cnirpc.Attachment{
		ID: cnirpc.ID{ContainerID: id, IfName: "eth0"}, Network: "pods", Pod: cnirpc.Pod{Namespace: "default", Name: id},
		DNS: &cnirpc.DNS{Servers: []string{nameserver}, Searches: search}, Path: ns.Path(), Namespace: ns.File(),
	}
}

// resolve is what an application in that pod gets: an address, or the error's text.
func (w *world) resolve(t testing.TB, ns *testenv.NetNS, nameserver, name string, device ...string) string {
	t.Helper()
	cmd := testenv.Command(t, "ask", append([]string{nameserver, name}, device...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	w.cgroup.Enter(cmd)
	ns.For(t).Start(cmd)
	_ = cmd.Wait() // the text says it
	return strings.TrimSpace(out.String())
}

func (w *world) expect(t testing.TB, ns *testenv.NetNS, nameserver, name, want string) {
	t.Helper()
	if got := w.resolve(t, ns, nameserver, name); got != want {
		t.Errorf("%s by %s: got %q, want %q", name, nameserver, got, want)
	}
}

// nameserver answers in ns as the address tells.
func nameserver(t testing.TB, ns *testenv.NetNS, addr string) *testenv.Server {
	t.Helper()
	return testenv.Nameserver(t, ns, netip.AddrPortFrom(netip.MustParseAddr(addr), 53), nil)
}

// unload removes what the agent leaves loaded.
func (w *world) unload(t testing.TB) {
	t.Helper()
	if err := loader.Unload(w.opts(), 0); err != nil && !errors.Is(err, loader.ErrNotLoaded) {
		t.Errorf("unload: %v", err)
	}
}

// listenUDP opens a socket in ns that nobody reads.
func listenUDP(t testing.TB, ns *testenv.NetNS, addr string) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	ns.Do(func() {
		var err error
		if conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}
