// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

// build builds the plugin as it is shipped, once in a run, and returns the binary.
func build(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(os.TempDir(), "dnsteer-cni") // below the run directory
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build plugin: %v: %s", err, out)
	}
	return path
}

// outcome is what a runtime gets to see of an execution.
type outcome struct {
	Stdout, Stderr string
	Failed         bool
}

// err is the error that the protocol has on stdout.
func (o outcome) err(tb testing.TB) types.Error {
	tb.Helper()
	if !o.Failed {
		return types.Error{}
	}
	var e types.Error
	if err := json.Unmarshal([]byte(o.Stdout), &e); err != nil {
		tb.Fatalf("stdout %q of a failure is no error: %v", o.Stdout, err)
	}
	return e
}

// execute executes the plugin with this environment and nothing else.
func execute(tb testing.TB, binary, stdin string, environ ...string) outcome {
	tb.Helper()
	cmd := exec.Command(binary)
	cmd.Env = environ
	cmd.Stdin = bytes.NewReader([]byte(stdin))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		tb.Fatalf("execute plugin: %v", err)
	}
	return outcome{stdout.String(), stderr.String(), err != nil}
}

// environ is what runtimes set for a pod.
func environ(command, netns string) []string {
	return []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=" + netns, "CNI_PATH=/opt/cni/bin",
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=8d5c",
	}
}

// call is what an agent was asked.
type call struct {
	Do         string
	Attachment cnirpc.Attachment
	Inode      uint64 // of the namespace
	Network    string
	Valid      []cnirpc.ID
}

// agent remembers what it was asked, and returns err.
type agent struct {
	socket string
	err    error

	mu    sync.Mutex
	calls []call
}

var _ cnirpc.Agent = (*agent)(nil)

// newAgent serves on a socket until the test ends.
func newAgent(tb testing.TB, err error) *agent {
	tb.Helper()
	a := &agent{err: err, socket: socketPath(tb)}
	l, listenErr := cnirpc.Listen(a.socket)
	if listenErr != nil {
		tb.Fatal(listenErr)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- (&cnirpc.Server{Agent: a}).Serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	return a
}

// socketPath is a path at which nothing is, short enough for a socket.
func socketPath(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "agent.sock")
}

func (a *agent) note(c call) error {
	if f := c.Attachment.Namespace; f != nil {
		c.Inode, c.Attachment.Namespace = inode(f), nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, c)
	return a.err
}

// take returns the calls since it was last called.
func (a *agent) take() []call {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := a.calls
	a.calls = nil
	return calls
}

func (a *agent) Add(_ context.Context, at cnirpc.Attachment) error {
	return a.note(call{Do: "add", Attachment: at})
}

func (a *agent) Del(_ context.Context, at cnirpc.Attachment) error {
	return a.note(call{Do: "del", Attachment: at})
}

func (a *agent) Check(_ context.Context, at cnirpc.Attachment) error {
	return a.note(call{Do: "check", Attachment: at})
}

func (a *agent) GC(_ context.Context, network string, valid []cnirpc.ID) error {
	return a.note(call{Do: "gc", Network: network, Valid: valid})
}

func (a *agent) Status(context.Context) error { return a.note(call{Do: "status"}) }

func inode(f *os.File) uint64 {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return 0
	}
	return st.Ino
}
