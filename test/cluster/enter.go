// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// runEnter runs a program on a node: args are the node's process 1, its cgroups
// and the program. It hands on SIGTERM and ends as the program does.
func runEnter(args []string) int {
	if len(args) < 3 {
		fmt.Fprintln(os.Stderr, "enter a node: too few arguments")
		return 2
	}
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		fmt.Fprintf(os.Stderr, "enter a node: %v\n", err)
		return 2
	}
	if err := joinCgroups(strings.Split(args[1], ",")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// This thread alone goes into the node; what it starts is born there.
	runtime.LockOSThread()
	if err := enterNode(pid); err != nil {
		fmt.Fprintf(os.Stderr, "enter a node: %v\n", err)
		return 1
	}
	// By its path: this thread's /proc does not know this process any more.
	cmd := exec.Command(os.Args[0], args[2:]...)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleExec)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 127
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended
		}
	}()
	_ = cmd.Wait() // how it ended is in ProcessState
	return cmd.ProcessState.ExitCode()
}

// runExec becomes a program that dies with its parent. The parent cannot ask for
// that (SysProcAttr.Pdeathsig): the child would take it for dead, not finding it
// in its own process namespace.
func runExec(args []string) int {
	path, err := exec.LookPath(args[0])
	if err == nil {
		err = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	}
	if err == nil {
		err = unix.Exec(path, args, os.Environ())
	}
	fmt.Fprintf(os.Stderr, "run %s: %v\n", args[0], err)
	return 127
}

// enterNode moves the calling thread into all namespaces of process pid.
func enterNode(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// Threads that share a root directory cannot change their mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare root directory: %w", err)
	}
	if err := unix.Setns(fd, nodeNamespaces); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return nil
}
