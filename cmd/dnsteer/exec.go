// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
)

// execPorts is how many exec may run at once in one network namespace: each takes the
// first free port from the default on.
const execPorts = 1024

// deathTimeout is more than a signal to oneself takes, even on a busy machine.
const deathTimeout = 5 * time.Second

func execCommand(ctx context.Context, e env, args []string) error {
	flags := newFlags("exec")
	h := &host{stderr: e.stderr}
	h.settings.add(flags)
	user := flags.String("user", "", "run CMD as this `user` or UID (default: who called sudo, or the caller)")
	if err := parse(e, flags, args, true); err != nil {
		return err
	}
	if err := h.settings.check("exec"); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return usageError{"exec: no command: dnsteer exec [flags] -- CMD [ARG...]", "exec"}
	}
	path, err := exec.LookPath(flags.Arg(0))
	if err != nil {
		return cannotRun{flags.Arg(0), err}
	}
	if err := needRoot(); err != nil {
		return err
	}
	as, err := invoker(*user, e.getenv)
	if err != nil {
		return err
	}
	return h.exec(ctx, path, flags.Args(), as)
}

// exec runs one command from the first cgroup to the last. Whatever was made is gone
// when it returns.
func (h *host) exec(ctx context.Context, path string, args []string, as identity) (err error) {
	// From the first thing that is made to the last that is removed: a signal while CMD
	// does not run must not end us half-way.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	defer signal.Stop(signals)
	outliveReaders()
	cgroup, err := makeCgroup()
	if err != nil {
		return err
	}
	defer func() { err = keep(err, cgroup.remove()) }()
	h.listeners, err = listen(loader.DefaultPort, execPorts)
	if err != nil {
		return err
	}
	defer func() {
		h.listeners.Close()
		err = keep(err, loader.RemoveTagRoute(h.listeners.Port))
	}()
	h.datapath, err = loader.Load(loader.Options{
		Cgroup: cgroup.path, Port: h.listeners.Port, Only: h.settings.only, Except: h.settings.except,
	})
	if err != nil {
		return err
	}
	defer h.datapath.Close()
	if err := h.start(); err != nil {
		return err
	}
	besideCtx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { h.watch(besideCtx) })
	beside.Go(func() { h.supervise(besideCtx, nil) })
	err = runCommandIn(cgroup, path, args, as, signals)
	cancel()
	beside.Wait()
	return keep(err, h.endExec(cgroup))
}

// endExec ends the datapath. What CMD left running, if anything, goes on with the
// nameservers that it had.
func (h *host) endExec(cgroup *commandCgroup) error {
	left, err := os.ReadFile(cgroup.path + "/cgroup.procs")
	if err == nil && len(left) == 0 {
		h.kill() // nobody is there to lose a query
		return h.datapath.Unload(nil)
	}
	_, err = h.call(request{Do: doWithdraw})
	return errors.Join(err, h.unload(), h.stop())
}

// runCommandIn runs the command with our terminal, descriptors 0 to 2, and signals, and
// ends as it ended: the error is its exit code. A signal that came before it ends us in
// its stead.
func runCommandIn(cgroup *commandCgroup, path string, args []string, as identity, signals <-chan os.Signal) error {
	if s := ending(signals); s != 0 {
		return killedBy(s)
	}
	cmd := exec.Command(path)
	cmd.Args = args
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = as.environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(cgroup.dir.Fd()),
		Credential: as.credential,
	}
	if err := cmd.Start(); err != nil {
		return cannotRun{path, err}
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if !sentByTerminal(s) {
				_ = cmd.Process.Signal(s) // it may have ended
			}
		case err := <-done:
			return endedAs(cmd, err)
		}
	}
}

// ending takes what has arrived so far and returns the first signal that ends a process
// by default, or 0.
func ending(signals <-chan os.Signal) syscall.Signal {
	for {
		select {
		case s := <-signals:
			if s != unix.SIGWINCH {
				return s.(syscall.Signal)
			}
		default:
			return 0
		}
	}
}

// sentByTerminal tells whether CMD has this signal already: what a key press sends, the
// terminal sends to its whole foreground process group, of which CMD is.
func sentByTerminal(s os.Signal) bool {
	if s != unix.SIGINT && s != unix.SIGQUIT && s != unix.SIGWINCH {
		return false
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return false // no terminal: somebody sent it to us alone
	}
	defer tty.Close()
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

// endedAs is nil, or the exit code, or the signal that ended the command.
func endedAs(cmd *exec.Cmd, err error) error {
	if err == nil {
		return nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return killedBy(status.Signal())
	}
	return exitCode(exit.ExitCode())
}

// cannotRun is why CMD did not start.
type cannotRun struct {
	command string
	error
}

func (c cannotRun) Error() string { return fmt.Sprintf("run %q: %v", c.command, c.error) }
func (c cannotRun) Unwrap() error { return c.error }

// code is what env(1) and shells end with.
func (c cannotRun) code() int {
	if errors.Is(c.error, exec.ErrNotFound) || errors.Is(c.error, fs.ErrNotExist) {
		return exitNotFound
	}
	return exitCannotRun
}

// killedBy makes dnsteer end by the signal that ended CMD, once all is cleaned up: the
// shell that waits sees what it would have seen without dnsteer.
type killedBy syscall.Signal

func (k killedBy) Error() string { return "ended by " + syscall.Signal(k).String() }

// die does it. It returns the code by which shells know that signal where Go's runtime
// would take no notice of it, or end with a report of its own: only four are left to it.
func (k killedBy) die() exitCode {
	sig, code := syscall.Signal(k), exitCode(128+int(k))
	switch sig {
	case unix.SIGHUP, unix.SIGINT, unix.SIGKILL, unix.SIGTERM:
	default:
		return code
	}
	signal.Reset(sig)
	if unix.Kill(os.Getpid(), sig) == nil {
		time.Sleep(deathTimeout) // another thread may be the one that dies
	}
	return code
}

// keep is for clean-up: the first error is the one that the user wants to see.
func keep(first, second error) error {
	if first != nil {
		return first
	}
	return second
}
