// SPDX-License-Identifier: Apache-2.0

// Matrix runs the privileged tests, unchanged, on the kernels that Debian serves,
// under QEMU, and writes down what works on which.
//
//	go run ./test/matrix                     # every kernel: make matrix
//	go run ./test/matrix -kernel 6.1,newest  # some: make matrix KERNEL=6.1
//
// It leaves one file of results for each kernel and brings the tables in the
// documents up to date with them. A kernel that is not served any more is named
// and counted as missing; a run of all fails if fewer than five ran.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dnsteer/dnsteer/test/oldkernel"
)

// enough is how many kernels a run of all must have had. With fewer, the archive
// or the network has a problem, and the table would say little.
const enough = 5

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "matrix:", err)
		}
		os.Exit(1)
	}
}

// options say what to run where.
type options struct {
	root     string // of the module
	kernels  string
	cache    string
	debs     string
	results  string
	tables   []string
	packages []string
	pattern  string
	level    level
	timeout  time.Duration
	parallel int
	verbose  bool
}

func parse(args []string) (options, error) {
	opts := options{root: "."}
	var packages, tables, name string
	f := flag.NewFlagSet("matrix", flag.ContinueOnError)
	f.StringVar(&opts.kernels, "kernel", "all", "all, or `kernels` separated by commas: minor versions, newest, "+noLinks+", "+noBTF+", and to hide what they lacked "+strings.Join(oldkernel.Versions(), ", "))
	f.StringVar(&opts.cache, "cache", ".cache/matrix", "`directory` for kernels and logs")
	f.StringVar(&opts.debs, "debs", os.Getenv("DNSTEER_KERNEL_DEBS"), "`directory` of kernel packages that the archive has dropped (default: $DNSTEER_KERNEL_DEBS)")
	f.StringVar(&opts.results, "results", "test/matrix/results", "`directory` of results; empty to write none")
	f.StringVar(&tables, "tables", "README.md,test/matrix/README.md", "`documents` whose tables are written from the results")
	f.StringVar(&packages, "packages", "./loader,./test/conformance", "`packages` to test")
	f.StringVar(&opts.pattern, "run", "", "only tests that match, as go test has it; writes no results")
	f.StringVar(&name, "level", "usual", "how much: quick, usual or whole")
	f.DurationVar(&opts.timeout, "timeout", time.Hour, "how long one package's tests may take on one kernel, by the host's clock and by the guest's")
	f.IntVar(&opts.parallel, "parallel", 1, "how many kernels at once; a guest keeps one processor busy, and takes a GiB")
	f.BoolVar(&opts.verbose, "v", false, "print all that the tests print")
	if err := f.Parse(args); err != nil {
		return opts, err
	}
	if f.NArg() > 0 {
		return opts, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	opts.packages = splitList(packages)
	opts.tables = splitList(tables)
	var err error
	if opts.level, err = findLevel(name); err != nil {
		return opts, err
	}
	if opts.pattern != "" {
		opts.level = level{name: levelSome, run: opts.pattern}
		opts.results = ""
	}
	return opts, nil
}

// cacheDir is the cache's directory; a relative one is below the module.
func (o options) cacheDir() (string, error) {
	if filepath.IsAbs(o.cache) {
		return o.cache, nil
	}
	return filepath.Abs(filepath.Join(o.root, o.cache))
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func run(ctx context.Context, args []string, out io.Writer) error {
	opts, err := parse(args)
	if err != nil {
		return err
	}
	lab, err := openLab(ctx, opts, out)
	if err != nil {
		return err
	}
	names, err := lab.choose(opts.kernels)
	if err != nil {
		return err
	}
	results, err := lab.tryAll(ctx, names, out)
	if err != nil {
		return err
	}
	if opts.results != "" {
		if err := updateTables(opts); err != nil {
			return err
		}
	}
	return judge(results, opts.kernels == "all")
}

// judge returns an error unless every kernel that ran has passed and, if all were
// wanted, enough ran. A kernel that was asked for by name must be there.
func judge(results []Result, all bool) error {
	var errs []error
	ran := 0
	for _, r := range results {
		if r.Outcome == Missing {
			if !all {
				errs = append(errs, fmt.Errorf("linux %s: not served any more; put its package into a directory and name that with -debs", r.Kernel))
			}
			continue
		}
		if !isMask(r.Kernel) && r.Kernel != noLinks { // those are no kernels of their own
			ran++
		}
		if r.Outcome == Fail {
			errs = append(errs, fmt.Errorf("linux %s: %s", r.Kernel, r.why()))
		}
	}
	if all && ran < enough {
		errs = append(errs, fmt.Errorf("only %d kernels ran, want at least %d", ran, enough))
	}
	if len(results) == 0 {
		errs = append(errs, errors.New("no kernel ran"))
	}
	return errors.Join(errs...)
}
