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
	"sync"
	"syscall"

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
	cache, err := opts.cacheDir()
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
	l := &lab{opts: opts, archive: archive, runner: filepath.Join(cache, "vmexec")}
	// The packages too: kernels that are tried at once would compile them twice.
	for _, args := range [][]string{
		{"build", "-trimpath", "-o", l.runner, "./test/vmexec"},
		append([]string{"list", "-export", "-test", "-deps", "-f="}, append(opts.packages, featuresPackage)...),
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir, cmd.Env = opts.root, append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go %s: %w: %s", args[0], err, text)
		}
	}
	return l, nil
}

// try runs the tests on one kernel. An error means that it could not be tried; tests
// that fail are a result.
func (l *lab) try(ctx context.Context, name string, out io.Writer) (Result, error) {
	s, err := l.find(ctx, name)
	if errors.Is(err, kernel.ErrNotServed) {
		return Result{Kernel: name, Outcome: Missing}, nil
	}
	if err != nil {
		return Result{}, err
	}
	r := newResult(s)
	r.Level = l.opts.level.name
	var packages []string
	if r.Level != levelSome { // else it would have no test that matches
		packages = append(packages, featuresPackage)
	}
	if s.tests {
		packages = append(packages, l.opts.packages...)
	}
	log, err := l.createLog(name)
	if err != nil {
		return Result{}, err
	}
	defer log.Close()
	fmt.Fprintf(out, "linux %s (%s): %s\n", r.name(), filepath.Base(s.dir), strings.Join(packages, " "))
	if err := l.goTest(ctx, s, packages, r.collector(log, out, l.opts.verbose), out); err != nil {
		return Result{}, err
	}
	r.settle(packages)
	return *r, nil
}

// goTest runs packages one after the other, one guest at a time for each kernel.
func (l *lab) goTest(ctx context.Context, s subject, packages []string, events, errs io.Writer) error {
	runner := append([]string{l.runner, "-kernel=" + s.dir}, s.flags...)
	args := []string{"test", "-json", "-count=1", "-p=1", "-vet=off", "-timeout=" + l.opts.timeout.String(),
		"-exec=" + strings.Join(runner, " ")}
	if l.opts.level.run != "" {
		args = append(args, "-run="+l.opts.level.run)
	}
	if skip := slices.DeleteFunc([]string{l.opts.level.skip, s.skip}, func(s string) bool { return s == "" }); len(skip) > 0 {
		args = append(args, "-skip="+strings.Join(skip, "|"))
	}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Dir, cmd.Env = l.opts.root, append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = events, errs
	// The go command passes no signal on, so all below it get one.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
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
	cache, err := l.opts.cacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "logs")
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

// tryAll tries kernels, as many at once as the options say, and keeps and prints the
// result of each.
func (l *lab) tryAll(ctx context.Context, names []string, out io.Writer) ([]Result, error) {
	results, errs := make([]Result, len(names)), make([]error, len(names))
	out = &syncWriter{out: out}
	slots := make(chan struct{}, max(1, l.opts.parallel))
	var all sync.WaitGroup
	for i, name := range names {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			r, err := l.try(ctx, name, out)
			if err != nil {
				errs[i] = fmt.Errorf("linux %s: %w", name, err)
				return
			}
			fmt.Fprintln(out, r)
			results[i], errs[i] = r, l.keep(r)
		})
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return results, errors.Join(errs...)
}

// syncWriter is for several who write whole lines.
type syncWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *syncWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}
