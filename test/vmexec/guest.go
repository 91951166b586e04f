// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/oldkernel"
)

// guest is the first process of a guest. What goes wrong in it goes to the
// kernel's log; it ends the machine whatever happens.
func guest() {
	if err := runGuest(); err != nil {
		fmt.Fprintln(os.Stderr, "vmexec:", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	time.Sleep(time.Hour) // the first process may not end
}

func runGuest() error {
	if err := mountAll(); err != nil {
		return err
	}
	text, err := os.ReadFile(jobPath)
	if err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	var j job
	if err := json.Unmarshal(text, &j); err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	for _, name := range j.Modules {
		if err := loadModule(filepath.Join(modulesPath, name+".ko")); err != nil {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	if err := raiseLoopback(); err != nil {
		return err
	}
	code, err := j.start()
	if err != nil {
		return fmt.Errorf("run %s: %w", j.Binary, err)
	}
	port, err := openPort(resultsPort)
	if err != nil {
		return err
	}
	if err := packResults(port, j.Outputs, code); err != nil {
		return err
	}
	return drain(port)
}

// mountAll mounts what a system has that its init has prepared.
func mountAll() error {
	for _, m := range []struct{ source, target, kind string }{
		{"proc", "/proc", "proc"},
		{"sysfs", "/sys", "sysfs"},
		{"devtmpfs", "/dev", "devtmpfs"},
		{"tmpfs", "/run", "tmpfs"},
		{"bpf", "/sys/fs/bpf", "bpf"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := os.MkdirAll("/tmp", 0o777); err != nil {
		return err
	}
	return os.Chmod("/tmp", os.ModeSticky|0o777)
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// raiseLoopback sets lo up in the initial network namespace.
func raiseLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// start runs the binary to its end and returns its exit code, which for one that
// a signal ended is the shell's.
func (j *job) start() (int, error) {
	port, err := openPort(outputPort)
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(binaryPath, j.Args...)
	cmd.Env, cmd.Dir = j.Env, j.Dir
	cmd.Stdout, cmd.Stderr = port, port
	if err := switchSeldom(); err != nil {
		return 0, err
	}
	if err = j.startMasked(cmd); err != nil {
		return 0, err
	}
	err = cmd.Wait()
	if drained := drain(port); drained != nil {
		return 0, drained
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		fmt.Fprintln(port, "signal:", status.Signal())
		return 128 + int(status.Signal()), drain(port)
	}
	return cmd.ProcessState.ExitCode(), nil
}

// switchSeldom lets a process that the calling thread starts, and its descendants, run on
// when they wake another. It is the switch between processes that takes the time in an
// emulated guest: QEMU forgets each time where all memory is.
func switchSeldom() error {
	runtime.LockOSThread() // for good: the policy belongs to the thread
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_BATCH}, 0); err != nil {
		return fmt.Errorf("choose scheduling policy: %w", err)
	}
	return nil
}

// startMasked starts cmd, under a mask if the job has one. That lasts until the machine
// ends.
func (j *job) startMasked(cmd *exec.Cmd) error {
	if j.As == "" && j.Without == "" {
		return cmd.Start()
	}
	mask, err := oldkernel.Parse(j.As, j.Without)
	if err != nil {
		return err
	}
	_, err = mask.Start(cmd)
	return err
}

// openPort opens a serial port that changes nothing of what is written to it.
func openPort(path string) (*os.File, error) {
	port, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	settings, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read settings of %s: %w", path, err)
	}
	settings.Iflag, settings.Oflag, settings.Lflag = 0, 0, 0
	settings.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	if err := unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, settings); err != nil {
		return nil, fmt.Errorf("change settings of %s: %w", path, err)
	}
	return port, nil
}

// drain waits until everything has left the port.
func drain(port *os.File) error {
	if err := unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1); err != nil {
		return fmt.Errorf("drain %s: %w", port.Name(), err)
	}
	return nil
}
