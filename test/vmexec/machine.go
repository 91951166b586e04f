// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const qemu = "qemu-system-x86_64"

// The guest's serial ports, one for each purpose, so that nothing has to be
// told apart again: the first is the kernel's, the second is what the binary
// prints, byte for byte, the third a tar of what comes back.
const (
	outputPort  = "/dev/ttyS1"
	resultsPort = "/dev/ttyS2"
)

// commandLine makes a kernel say everything on its port, and die instead of
// living on damaged: rebooting means the end, because QEMU runs with -no-reboot.
const commandLine = "console=ttyS0 loglevel=6 panic=-1 oops=panic hung_task_panic=1 8250.nr_uarts=4"

// instructionTime makes an emulated guest's clock count instructions, one a
// nanosecond, instead of the host's time, and skip idle time. However slow or busy the
// host is, the guest sees a processor of ordinary speed, so that what has a deadline in
// it (heartbeats, receives) fails only for its own reasons.
const instructionTime = "shift=0,sleep=off"

// machine is one virtual machine that runs once.
type machine struct {
	kernel    *kernel
	initramfs string
	log       string // of the kernel
	results   string
	opts      options
}

// newMachine keeps its files in work.
func newMachine(opts options, work string) (*machine, error) {
	if _, err := exec.LookPath(qemu); err != nil {
		return nil, fmt.Errorf("find %s: %w (install the package qemu-system-x86)", qemu, err)
	}
	k, err := openKernel(opts.kernel)
	if err != nil {
		return nil, err
	}
	return &machine{
		kernel:    k,
		initramfs: filepath.Join(work, "initramfs"),
		log:       filepath.Join(work, "kernel.log"),
		results:   filepath.Join(work, "results.tar"),
		opts:      opts,
	}, nil
}

// run boots, copies to stdout what the binary prints, and returns its exit code
// when the machine is gone. An error means that the guest did not end by itself.
func (m *machine) run(ctx context.Context, limit time.Duration, stdout io.Writer) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, m.arguments()...)
	cmd.Stdout, cmd.Stderr = stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	died := cmd.Run()
	code, err := unpackResults(m.results)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return failed, fmt.Errorf("guest still ran after %s, killed", limit)
	case ctx.Err() != nil:
		return failed, errors.New("interrupted, guest killed")
	case died != nil:
		return failed, fmt.Errorf("run guest: %w", died)
	case err != nil:
		return failed, fmt.Errorf("guest died before its binary ended: %w", err)
	}
	return code, nil
}

func (m *machine) arguments() []string {
	// A plain processor: emulating all that newer ones have costs a third more time.
	args := []string{
		"-machine", "q35", "-accel", m.opts.accel, "-cpu", "qemu64",
		"-smp", strconv.Itoa(m.opts.cpus), "-m", strconv.Itoa(m.opts.memory),
		"-nodefaults", "-display", "none", "-no-reboot", "-nic", "none",
		"-chardev", "file,id=log,path=" + m.log, "-serial", "chardev:log",
		"-chardev", "stdio,id=output,signal=off", "-serial", "chardev:output",
		"-chardev", "file,id=results,path=" + m.results, "-serial", "chardev:results",
		"-kernel", m.kernel.image, "-initrd", m.initramfs, "-append", commandLine,
	}
	if strings.HasPrefix(m.opts.accel, "tcg") {
		args = append(args, "-icount", instructionTime)
	}
	return args
}

// showLog copies the kernel's log.
func (m *machine) showLog(w io.Writer) {
	log, err := os.ReadFile(m.log)
	if err != nil {
		log = []byte(err.Error() + "\n")
	}
	fmt.Fprintf(w, "--- kernel log of the guest\n%s\n--- end of kernel log\n", log)
}
