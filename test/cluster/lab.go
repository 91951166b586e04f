// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// labEnv says in which stage of the lab a process is: not set outside,
	// labInit in process 1, the prefix of the nodes' cgroups in the test.
	labEnv  = "DNSTEER_TEST_LAB"
	labInit = "init"
)

// Main is the TestMain of a package that runs clusters. It starts the test binary
// again inside a lab, and there runs the tests. It does not return.
func Main(m *testing.M) {
	switch os.Getenv(labEnv) {
	case "":
		os.Exit(outside())
	case labInit:
		os.Exit(inside())
	}
	testenv.Main(m, testenv.Roles{roleNode: runNode, roleInit: runInit, roleEnter: runEnter, roleExec: runExec})
}

// outside starts the lab and cleans up after it, however it ended.
func outside() int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "make a lab: root is needed for namespaces and cgroups: sudo make e2e")
		return 1
	}
	// The lab dies with the thread that started it, which is the main thread.
	runtime.LockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), labEnv+"="+labInit)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	// The name tells of which process a cgroup was, should this one be killed.
	prefix := fmt.Sprintf("dnsteer-lab-%d-", os.Getpid())
	cmd.Env = append(cmd.Env, prefixEnv+"="+prefix)
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "make a lab: %v\n", err)
		return 1
	}
	go func() {
		fmt.Fprintf(os.Stderr, "%v: end the lab\n", <-signals)
		_ = cmd.Process.Kill()
	}()
	_ = cmd.Wait() // how it ended is in ProcessState
	code := cmd.ProcessState.ExitCode()
	if err := removeCgroups(prefix); err != nil {
		fmt.Fprintf(os.Stderr, "clean up after the lab: %v\n", err)
		code = max(code, 1)
	}
	if code < 0 {
		return 1 // a signal
	}
	return code
}

// prefixEnv tells process 1 of the lab how the nodes' cgroups are called.
const prefixEnv = "DNSTEER_TEST_LAB_PREFIX"

// inside is process 1 of the lab: it starts the test and takes in the orphans.
func inside() int {
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
	); err != nil {
		fmt.Fprintf(os.Stderr, "mount inside the lab: %v\n", err)
		return 1
	}
	if err := os.Setenv(labEnv, os.Getenv(prefixEnv)); err != nil {
		fmt.Fprintf(os.Stderr, "start the test inside the lab: %v\n", err)
		return 1
	}
	attr := &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}}
	test, err := os.StartProcess("/proc/self/exe", os.Args, attr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "start the test inside the lab: %v\n", err)
		return 1
	}
	return reap(test.Pid)
}

// reap waits for whatever ends, as process 1 has to, until child does, and
// returns its exit code. Zero waits for ever.
func reap(child int) int {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD), err == nil && pid == 0:
			<-ended
		case err != nil:
			fmt.Fprintf(os.Stderr, "wait for processes: %v\n", err)
			return 1
		case pid == child && status.Signaled():
			return 128 + int(status.Signal())
		case pid == child:
			return status.ExitStatus()
		}
	}
}
