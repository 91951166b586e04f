// SPDX-License-Identifier: Apache-2.0

// Maskexec runs a program on this kernel as if it were older (see package oldkernel),
// for use by hand or as
//
//	go test -exec 'maskexec -as 5.4' ./test/matrix/features
//	go test -exec 'maskexec -without bpf_link' ./loader
//
// It takes root. The program runs in the same cgroup and namespaces, has maskexec's
// input and output, and its exit code is maskexec's.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/dnsteer/dnsteer/test/oldkernel"
)

// failed is the exit code where the program has none of its own.
const failed = 125

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "maskexec:", err)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	f := flag.NewFlagSet("maskexec", flag.ContinueOnError)
	as := f.String("as", "", "hide what this `version` lacked: "+strings.Join(oldkernel.Versions(), ", "))
	without := f.String("without", "", "hide `features`, separated by commas: "+strings.Join(oldkernel.Features(), ", "))
	if err := f.Parse(args); err != nil {
		return 2, nil //nolint:nilerr // flag has said it
	}
	mask, err := oldkernel.Parse(*as, *without)
	if err != nil {
		return 2, err
	}
	if f.NArg() == 0 {
		return 2, errors.New("usage: maskexec -as VERSION | -without FEATURES PROGRAM [arguments]")
	}
	// What the terminal sends reaches the program by itself; its end is ours.
	signal.Ignore(os.Interrupt, syscall.SIGQUIT)
	cmd := exec.Command(f.Arg(0), f.Args()[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return runUnder(mask, cmd)
}

// runUnder runs cmd to its end and returns its exit code, which for one that a signal
// ended is the shell's.
func runUnder(mask oldkernel.Mask, cmd *exec.Cmd) (int, error) {
	release, err := mask.Start(cmd)
	if err != nil {
		return failed, err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	code := cmd.ProcessState.ExitCode()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	if err = errors.Join(err, release()); err != nil {
		return failed, err
	}
	return code, nil
}
