// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// lostDeadline is for a child that does not answer at all; its own deadlines are shorter.
const lostDeadline = 30 * time.Second

const (
	childRole = "probe"
	makerRole = "probe-maker"
)

// Roles are those of the child and of its helper, for testenv.Main.
func Roles() testenv.Roles {
	return testenv.Roles{childRole: serveChild, makerRole: serveMaker}
}

// serveChild runs the Specs among its arguments, or those that come by stdin.
func serveChild(args []string) int {
	runtime.LockOSThread() // see threads
	in := json.NewDecoder(os.Stdin)
	if len(args) > 0 {
		in = json.NewDecoder(strings.NewReader(strings.Join(args, "\n")))
	}
	out := json.NewEncoder(os.Stdout)
	pause := func() error {
		if err := out.Encode(Result{Paused: true}); err != nil {
			return err
		}
		return in.Decode(new(string))
	}
	p := &prober{pause: pause, buf: make([]byte, biggestMessage)}
	if _, err := unix.FcntlInt(makerFD, unix.F_GETFD, 0); err == nil && len(args) == 0 {
		p.maker = os.NewFile(makerFD, "maker")
	}
	for {
		var spec Spec
		err := in.Decode(&spec)
		if errors.Is(err, io.EOF) {
			return 0
		}
		var result Result
		if err == nil {
			result, err = p.run(spec)
		}
		if err == nil {
			err = out.Encode(result)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "probe:", err)
			return 1
		}
	}
}

// Options say where and as whom a Child runs.
type Options struct {
	NetNS  *testenv.NetNS
	Cgroup *testenv.Cgroup
	// UserIDs, if not zero, puts the child into a user namespace of its own, whose UIDs
	// and GIDs from 0 are these and up.
	UserIDs int
	// MakerCgroup is where sockets for OwnerPassed are made; nil means Cgroup.
	MakerCgroup *testenv.Cgroup
}

// Child is a process that runs Specs, one at a time.
type Child struct {
	PID    int
	in     *json.Encoder
	out    *json.Decoder
	expire func(time.Time) error
	stderr *strings.Builder
}

// Start starts a child, which ends with the test. Without Options.UserIDs it has a
// helper for OwnerPassed.
func Start(tb testing.TB, opts Options) *Child {
	tb.Helper()
	child := testenv.Command(tb, childRole)
	// The runtime preempts by signal, and a call with a timeout is then EINTR: a
	// result of Go, not of the datapath.
	child.Env = append(child.Env, "GODEBUG=asyncpreemptoff=1")
	c := &Child{stderr: new(strings.Builder)}
	child.Stderr = c.stderr
	stdin, err := child.StdinPipe()
	if err != nil {
		tb.Fatalf("start probe: %v", err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		tb.Fatalf("start probe: %v", err)
	}
	c.in, c.out = json.NewEncoder(stdin), json.NewDecoder(stdout)
	c.expire = stdout.(*os.File).SetReadDeadline
	child.SysProcAttr = &syscall.SysProcAttr{}
	if opts.UserIDs != 0 {
		opts.enterUserNS(child.SysProcAttr)
	} else {
		opts.startMaker(tb, child)
	}
	opts.Cgroup.Enter(child)
	opts.NetNS.Start(child)
	c.PID = child.Process.Pid
	for _, f := range child.ExtraFiles {
		_ = f.Close() // it lives on in the child
	}
	return c
}

func (o Options) enterUserNS(attr *syscall.SysProcAttr) {
	ids := []syscall.SysProcIDMap{{HostID: o.UserIDs, Size: 1 << 16}}
	attr.Cloneflags = syscall.CLONE_NEWUSER
	attr.UidMappings, attr.GidMappings = ids, ids
	attr.GidMappingsEnableSetgroups = true
	attr.Credential = &syscall.Credential{} // root, in there
}

// startMaker starts the helper and leaves the child's end of their socket with it.
func (o Options) startMaker(tb testing.TB, child *exec.Cmd) {
	tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatalf("start probe maker: %v", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "maker's end")
	defer theirs.Close()
	child.ExtraFiles = []*os.File{os.NewFile(uintptr(pair[0]), "child's end")}
	maker := testenv.Command(tb, makerRole)
	maker.ExtraFiles = []*os.File{theirs}
	maker.Stderr = os.Stderr
	maker.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: Owner1337}}
	if o.MakerCgroup == nil {
		o.MakerCgroup = o.Cgroup
	}
	o.MakerCgroup.Enter(maker)
	o.NetNS.Start(maker)
}

// Run runs a Spec and returns its Result.
func (c *Child) Run(tb testing.TB, spec Spec) Result {
	tb.Helper()
	return c.RunPaused(tb, spec, func() { tb.Error("run probe: a Pause, but nothing to do") })
}

// RunPaused is Run for a Spec with Pause among its calls: at each the child waits until
// meanwhile has returned.
func (c *Child) RunPaused(tb testing.TB, spec Spec, meanwhile func()) Result {
	tb.Helper()
	c.send(tb, spec)
	for {
		var result Result
		if err := c.expire(time.Now().Add(lostDeadline)); err != nil {
			tb.Fatalf("run probe: %v", err)
		}
		if err := c.out.Decode(&result); err != nil {
			tb.Fatalf("read probe's result: %v\n%s", err, c.stderr)
		}
		if !result.Paused {
			return result
		}
		meanwhile()
		c.send(tb, "go on")
	}
}

func (c *Child) send(tb testing.TB, value any) {
	tb.Helper()
	if err := c.in.Encode(value); err != nil {
		tb.Fatalf("write to probe: %v\n%s", err, c.stderr)
	}
}
