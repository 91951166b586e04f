// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stopTimeout is how long SIGTERM may take before SIGKILL. A kube-apiserver
	// first lets its watchers go.
	stopTimeout = 15 * time.Second
	// tailLines of a log are what a failed test shows of it.
	tailLines = 25
)

// Process is a daemon of a test. It dies with the test's process, however that ends.
type Process struct {
	// Name is what messages call it, and its log, NAME.log.
	Name string

	cmd   *exec.Cmd
	log   string
	ended chan struct{}
}

// Run starts cmd with its output in dir/name.log, and kills it when the test ends:
// what it would put in order goes with the test. A daemon that is started again writes
// on where the log ends.
func Run(tb testing.TB, name, dir string, cmd *exec.Cmd) *Process {
	tb.Helper()
	p := &Process{Name: name, cmd: cmd, log: filepath.Join(dir, name+".log"), ended: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		tb.Fatalf("open log of %s: %v", name, err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	started := make(chan error)
	go func() {
		defer close(p.ended)
		// Pdeathsig watches the thread that started the child, not the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		tb.Fatalf("start %s: %v", name, err)
	}
	tb.Cleanup(p.Kill)
	return p
}

// PID is the process's number in the test's own process namespace.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Alive returns an error once the process has ended.
func (p *Process) Alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended: %v", p.Name, p.cmd.ProcessState)
	default:
		return nil
	}
}

// Stop ends the process in good order, or else by force. One that has ended is fine.
func (p *Process) Stop(tb testing.TB) {
	tb.Helper()
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-p.ended:
		return
	case <-time.After(stopTimeout):
	}
	tb.Errorf("stop %s: still runs %v after SIGTERM", p.Name, stopTimeout)
	p.Kill()
}

// Kill ends the process at once, and returns when it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Tail is the end of the process's log.
func (p *Process) Tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-tailLines):], []byte("\n")))
}
