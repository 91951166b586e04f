// SPDX-License-Identifier: Apache-2.0

// Vmexec runs a test binary inside another kernel, for use as
//
//	go test -exec 'vmexec -kernel DIR' ./loader
//
// It boots the kernel under QEMU with nothing but an initramfs: itself as the
// first process, the binary, the testdata of its package and the kernel modules
// asked for. What the binary prints, its exit code and the files that go test
// asked it to write (profiles, coverage) come out as if it had run here. A guest
// that panics, dies or exceeds its time fails the run and prints its kernel log.
//
// The binary must be static (CGO_ENABLED=0) and may call no other program: there
// is none, not even a shell. Vmexec is static too, and is both sides: it must
// not import cilium/ebpf, which reads /proc/self/mountinfo when the process
// starts and remembers a failure, and as the first process there is no /proc yet.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/dnsteer/dnsteer/test/oldkernel"
)

// failed is the exit code where the binary has none of its own: higher than go
// test uses, lower than the shell's for signals.
const failed = 125

// defaultModules are what the privileged tests use that distributions build as
// modules: pairs of interfaces, conntrack, the story's NAT rules, and the families of
// netlink that its Go library opens.
const defaultModules = "veth,dummy,nf_conntrack,nf_tables,nft_ct,nft_chain_nat,nft_redir,nft_nat,xfrm_user"

func main() {
	if os.Getpid() == 1 {
		guest() // does not return
	}
	// QEMU is to die with the thread that started it, so that must be the last one.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	code, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmexec:", err)
	}
	os.Exit(code)
}

// run is the host's side: one guest, from flags to exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	opts, command, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 2, nil
	}
	if err != nil {
		return 2, err
	}
	work, err := os.MkdirTemp("", "vmexec-")
	if err != nil {
		return failed, err
	}
	defer os.RemoveAll(work)
	m, err := newMachine(opts, work)
	if err != nil {
		return failed, err
	}
	j, err := newJob(command)
	if err != nil {
		return failed, err
	}
	j.As, j.Without = opts.as, opts.without
	if err := writeInitramfs(m.initramfs, j, m.kernel, opts.modules); err != nil {
		return failed, fmt.Errorf("make initramfs: %w", err)
	}
	code, err := m.run(ctx, j.limit(opts.limit), stdout)
	if err != nil || opts.verbose {
		m.showLog(stderr)
	}
	return code, err
}

// options are the runner's own flags; those of the test binary follow its name.
type options struct {
	kernel  string
	modules []string
	accel   string
	cpus    int
	memory  int
	limit   time.Duration
	verbose bool
	as      string // hide what this version lacked
	without string // hide these features
}

func parse(args []string, stderr io.Writer) (options, []string, error) {
	var opts options
	var modules string
	f := flag.NewFlagSet("vmexec", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&opts.kernel, "kernel", "", "`directory` of an unpacked kernel package")
	f.StringVar(&modules, "modules", defaultModules, "kernel modules to load, comma-separated; those that the kernel lacks are named in its log")
	// Not KVM where there is a /dev/kvm: inside other virtual machines it may be
	// there and not work, and emulation gives the same results, only later.
	f.StringVar(&opts.accel, "accel", "tcg,thread=single", "QEMU's accelerator; kvm is about ten times faster where it works")
	f.IntVar(&opts.cpus, "cpus", 1, "virtual processors; more than one only with -accel kvm")
	f.IntVar(&opts.memory, "memory", 1024, "`MiB` of memory")
	f.DurationVar(&opts.limit, "limit", 0, "how long the guest may live (default: -test.timeout and two minutes)")
	f.StringVar(&opts.as, "as", "", "hide what a `version` of the kernel lacked, see package oldkernel")
	f.StringVar(&opts.without, "without", "", "hide `features` of the kernel, separated by commas")
	f.BoolVar(&opts.verbose, "v", false, "print the kernel log of a guest that went well, too")
	if err := f.Parse(args); err != nil {
		return opts, nil, err
	}
	if opts.kernel == "" || f.NArg() == 0 {
		return opts, nil, errors.New("usage: vmexec -kernel DIR [flags] BINARY [arguments]")
	}
	if opts.as != "" || opts.without != "" {
		if _, err := oldkernel.Parse(opts.as, opts.without); err != nil {
			return opts, nil, err
		}
	}
	opts.modules = strings.FieldsFunc(modules, func(r rune) bool { return r == ',' })
	return opts, f.Args(), nil
}
