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
	"slices"
	"strings"

	"github.com/dnsteer/dnsteer/test/matrix/kernel"
)

// wanted are the kernels that the table has a line for, also when they are not
// served. Newer ones join by themselves.
var wanted = []string{"5.10", "6.1", "6.12", "6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3"}

// featuresPackage tells what a kernel can, and runs on all of them.
const featuresPackage = "./test/matrix/features"

// tools are the programs that we call, and Debian's packages for them.
var tools = []struct{ program, pkg string }{
	{"qemu-system-x86_64", "qemu-system-x86"},
	{"xz", "xz-utils"},
	{"dpkg", "dpkg"},
	{"apt-get", "apt"},
}

// lab has all that is needed to try kernels.
type lab struct {
	opts    options
	archive *kernel.Archive
	runner  string // the vmexec binary
	out     io.Writer
}

// openLab looks for the tools, reads what kernels there are and builds the runner.
func openLab(ctx context.Context, opts options, out io.Writer) (*lab, error) {
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			missing = append(missing, t.pkg)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("the kernel matrix needs Debian's packages %s: run make deps", strings.Join(missing, ", "))
	}
	cache, err := filepath.Abs(filepath.Join(opts.root, opts.cache))
	if err != nil {
		return nil, err
	}
	archive, err := kernel.Open(ctx, cache, opts.debs)
	if err != nil {
		return nil, fmt.Errorf("%w\nthe kernels are Debian's linux-image-*-cloud-amd64, from the mirror in the machine's apt sources or from a directory named with -debs", err)
	}
	if err := archive.Warning(); err != nil {
		fmt.Fprintf(out, "the list of kernels may be old or incomplete: %v\n", err)
	}
	l := &lab{opts: opts, archive: archive, runner: filepath.Join(cache, "vmexec"), out: out}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", l.runner, "./test/vmexec")
	build.Dir, build.Env = opts.root, append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build vmexec: %w: %s", err, text)
	}
	return l, nil
}

// choose returns the minor versions that a list names, oldest first.
func (l *lab) choose(list string) ([]string, error) {
	var minors []string
	for _, name := range splitList(list) {
		switch name {
		case "all":
			minors = append(minors, wanted...)
			for _, m := range l.archive.Minors() {
				if kernel.Compare(m, wanted[len(wanted)-1]) > 0 {
					minors = append(minors, m)
				}
			}
		case "newest":
			newest, err := l.newest()
			if err != nil {
				return nil, err
			}
			minors = append(minors, newest)
		default:
			minors = append(minors, name)
		}
	}
	slices.SortFunc(minors, kernel.Compare)
	return slices.Compact(minors), nil
}

// newest is the newest kernel on which all tests can run.
func (l *lab) newest() (string, error) {
	for _, minor := range slices.Backward(l.archive.Minors()) {
		if b, err := l.archive.Newest(minor); err == nil && b.HasModules() {
			return minor, nil
		}
	}
	return "", errors.New("find the newest kernel: none has modules")
}

// try runs the tests on one kernel. An error means that it could not be tried; tests
// that fail are a result.
func (l *lab) try(ctx context.Context, minor string) (Result, error) {
	build, err := l.archive.Newest(minor)
	if errors.Is(err, kernel.ErrNotServed) {
		return Result{Kernel: minor, Outcome: Missing}, nil
	}
	if err != nil {
		return Result{}, err
	}
	dir, err := l.archive.Unpack(ctx, build)
	if err != nil {
		return Result{}, err
	}
	r := newResult(build)
	r.Level = l.opts.level.name
	packages := []string{featuresPackage}
	if r.Modules {
		packages = append(packages, l.opts.packages...)
	}
	log, err := l.createLog(minor)
	if err != nil {
		return Result{}, err
	}
	defer log.Close()
	fmt.Fprintf(l.out, "linux %s (%s): %s\n", minor, build.Release, strings.Join(packages, " "))
	if err := l.goTest(ctx, dir, packages, r.collector(log, l.out, l.opts.verbose)); err != nil {
		return Result{}, err
	}
	r.settle(packages)
	return *r, nil
}

// goTest runs packages one after the other, one guest at a time: two would fight for
// the processors, and tests have deadlines.
func (l *lab) goTest(ctx context.Context, kernelDir string, packages []string, events io.Writer) error {
	args := []string{"test", "-json", "-count=1", "-p=1", "-vet=off", "-timeout=" + l.opts.timeout.String(),
		"-exec=" + l.runner + " -kernel=" + kernelDir}
	if l.opts.level.run != "" {
		args = append(args, "-run="+l.opts.level.run)
	}
	if l.opts.level.skip != "" {
		args = append(args, "-skip="+l.opts.level.skip)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Dir, cmd.Env = l.opts.root, append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = events, l.out
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err := cmd.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.As(err, &exit) {
		return nil // tests failed; the events say which
	}
	return err
}

// createLog makes the file for everything that go test says.
func (l *lab) createLog(minor string) (*os.File, error) {
	dir := filepath.Join(l.opts.root, l.opts.cache, "logs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Create(filepath.Join(dir, minor+".json"))
}

// keep writes a result to its file.
func (l *lab) keep(r Result) error {
	if l.opts.results == "" {
		return nil
	}
	return r.write(filepath.Join(l.opts.root, l.opts.results))
}
