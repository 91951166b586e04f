// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/kube"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// Shape is how cgroups are mounted on a node.
type Shape string

const (
	// Hybrid is v1 hierarchies with their controllers, and v2 at /sys/fs/cgroup/unified.
	Hybrid Shape = "hybrid"
	// Unified is v2 alone, at /sys/fs/cgroup. On a machine whose controllers are
	// bound to v1 it has none, so pods run without limits.
	Unified Shape = "unified"
)

// Node is a machine of the cluster.
type Node struct {
	Name    string
	Addr    netip.Addr
	Gateway netip.Addr   // the lab's, where RunNameserver has one
	Pods    netip.Prefix // where its pods have their addresses

	tb      testing.TB
	network network
	shape   Shape
	runtime Runtime
	pid     int      // of the node's process 1
	cgroups []string // its cgroup in each hierarchy, as the lab sees them
	logs    string
	daemons []*kube.Process
}

// nodeConfig is what the roles of a node need to know.
type nodeConfig struct {
	Name        string
	Shape       Shape
	State       string      // a directory for what the node writes
	Hierarchies []hierarchy // as the machine mounts them
	Cgroups     []string
}

// NewNode makes a node with the reference plugins of CNI and nothing that runs on it.
// It is alone in its network.
func NewNode(tb testing.TB, shape Shape) *Node {
	tb.Helper()
	n := newNode(tb, newNetwork(tb), 1, shape, logDir(tb))
	n.installPlugins()
	return n
}

// newNode makes a node without anything that runs on it yet.
func newNode(tb testing.TB, w network, number int, shape Shape, logs string) *Node {
	tb.Helper()
	n := &Node{
		Name:    fmt.Sprintf("n%d", number),
		Addr:    w.node(number),
		Gateway: w.addr().Addr(),
		Pods:    w.pods(number),
		tb:      tb,
		network: w,
		shape:   shape,
	}
	n.logs = filepath.Join(logs, n.Name)
	if err := os.MkdirAll(n.logs, 0o755); err != nil {
		tb.Fatalf("make directory for logs: %v", err)
	}
	all, err := hierarchies()
	if err != nil {
		tb.Fatal(err)
	}
	if shape == Hybrid && !slices.ContainsFunc(all, hierarchy.hasMemory) {
		tb.Fatalf("make a node of shape hybrid: the memory controller is not in a cgroup v1 hierarchy of this machine: " +
			"boot it with systemd.unified_cgroup_hierarchy=0, or run what is unified: make e2e RUN=Unified")
	}
	prefix := os.Getenv(labEnv)
	if prefix == "" {
		tb.Fatal("make a node: not in a lab: the package needs func TestMain(m *testing.M) { cluster.Main(m) }")
	}
	name := fmt.Sprintf("%s%d-%s", prefix, w, n.Name)
	tb.Cleanup(func() {
		if err := removeCgroups(name); err != nil {
			tb.Error(err)
		}
	})
	if n.cgroups, err = makeCgroups(all, name); err != nil {
		tb.Fatal(err)
	}
	n.boot(all)
	n.connect(number)
	return n
}

// For returns the same node, reporting to tb, as a subtest needs it.
func (n *Node) For(tb testing.TB) *Node {
	other := *n
	other.tb = tb
	return &other
}

// boot starts the node's process 1 and returns when its mounts are made.
func (n *Node) boot(all []hierarchy) {
	n.tb.Helper()
	config, err := json.Marshal(nodeConfig{n.Name, n.shape, n.tb.TempDir(), all, n.cgroups})
	if err != nil {
		n.tb.Fatal(err)
	}
	ready, wait, err := os.Pipe()
	if err != nil {
		n.tb.Fatalf("make pipe: %v", err)
	}
	defer ready.Close()
	cmd := testenv.Command(n.tb, roleNode, string(config))
	cmd.ExtraFiles = []*os.File{wait}
	process := kube.Run(n.tb, "node", n.logs, cmd)
	wait.Close()
	line, err := bufio.NewReader(ready).ReadString('\n')
	if err != nil {
		n.tb.Fatalf("boot node %s: %v: the end of its log:\n%s", n.Name, err, process.Tail())
	}
	if n.pid, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		n.tb.Fatalf("boot node %s: %v", n.Name, err)
	}
}

// Command runs a program on the node, in its namespaces and its cgroup. It is not
// yet started.
func (n *Node) Command(args ...string) *exec.Cmd { return n.Place(exec.Command(args[0], args[1:]...)) }

// Place moves a command that is not yet started to the node.
func (n *Node) Place(cmd *exec.Cmd) *exec.Cmd {
	n.tb.Helper()
	place := []string{strconv.Itoa(n.pid), strings.Join(n.cgroups, ",")}
	return testenv.Command(n.tb, roleEnter, append(place, cmd.Args...)...)
}

// Run runs a program on the node to its end and returns what it printed. The test
// fails if the program does.
func (n *Node) Run(args ...string) string {
	n.tb.Helper()
	out, err := bounded(n.Command(args...))
	if err != nil {
		n.tb.Fatalf("run %q on %s: %v\n%s", args, n.Name, err, out)
	}
	return out
}

// commandTimeout bounds a program that a test waits for.
const commandTimeout = 5 * time.Minute

// bounded runs a command to its end, or kills it, and returns what it printed.
func bounded(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	if err := cmd.Start(); err != nil {
		return "", err
	}
	var late atomic.Bool
	timer := time.AfterFunc(commandTimeout, func() { late.Store(true); _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	if late.Load() {
		err = fmt.Errorf("it ran for %v: %w", commandTimeout, err)
	}
	return out.String(), err
}

// alive returns an error if one of the node's daemons has ended.
func (n *Node) alive() error {
	for _, p := range n.daemons {
		if err := p.Alive(); err != nil {
			return fmt.Errorf("on %s, %w: the end of its log:\n%s", n.Name, err, p.Tail())
		}
	}
	return nil
}

// Path is where the lab finds a file of the node.
func (n *Node) Path(path string) string { return fmt.Sprintf("/proc/%d/root%s", n.pid, path) }

// Write writes a file of the node, and its directories.
func (n *Node) Write(path, text string) {
	n.tb.Helper()
	path = n.Path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.tb.Fatalf("make directory on %s: %v", n.Name, err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		n.tb.Fatalf("write file on %s: %v", n.Name, err)
	}
}

// Read reads a file of the node.
func (n *Node) Read(path string) string {
	n.tb.Helper()
	text, err := os.ReadFile(n.Path(path))
	if err != nil {
		n.tb.Fatalf("read file of %s: %v", n.Name, err)
	}
	return string(text)
}

// Exists tells whether the node has a file.
func (n *Node) Exists(path string) bool {
	_, err := os.Stat(n.Path(path))
	return err == nil
}

// Cgroup2 is where the node sees the root of cgroup v2.
func (n *Node) Cgroup2() string {
	if n.shape == Unified {
		return "/sys/fs/cgroup"
	}
	return "/sys/fs/cgroup/unified"
}

// runNode joins the node's cgroups, so that a cgroup namespace made now has them
// as its roots, and starts process 1. It ends with it.
func runNode(args []string) int {
	var config nodeConfig
	if err := json.Unmarshal([]byte(args[0]), &config); err != nil {
		fmt.Fprintf(os.Stderr, "read configuration: %v\n", err)
		return 2
	}
	if err := joinCgroups(config.Cgroups); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	mounted, wait, err := os.Pipe()
	if err != nil {
		fmt.Fprintf(os.Stderr, "make pipe: %v\n", err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleInit)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{wait}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: nodeNamespaces, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "make namespaces: %v\n", err)
		return 1
	}
	wait.Close()
	if _, err := bufio.NewReader(mounted).ReadString('\n'); err == nil {
		fmt.Fprintln(os.NewFile(3, "ready"), cmd.Process.Pid)
	}
	fmt.Fprintf(os.Stderr, "process 1 ended: %v\n", cmd.Wait())
	return 1
}
