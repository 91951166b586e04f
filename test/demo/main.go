// SPDX-License-Identifier: Apache-2.0

// Command demo shows, in network namespaces that it makes and removes, what happens
// to a pod's DNS when source ports repeat: under netfilter REDIRECT, and under
// dnsteer. It counts every answer and exits 1 if a figure is not what it claims.
//
//	main.go     what runs in which order, and Ctrl-C
//	story.go    the same queries under each way to intercept them
//	getent.go   two names under "dnsteer exec"
//	table.go    what came of it
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/seed"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func main() {
	roles := seed.Roles()
	maps.Copy(roles, etc.Roles())
	roles.Dispatch()
	binary := flag.String("dnsteer", "bin/dnsteer", "`path` of the binary that is shown")
	flag.Parse()
	os.Exit(run(*binary, os.Stdout, os.Stderr))
}

// demo is one showing.
type demo struct {
	out         io.Writer
	binary      dnsteer.Binary
	lacks       func(tb testing.TB) string // what netfilter needs and the kernel lacks
	interrupted atomic.Bool
}

func run(binary string, stdout, stderr io.Writer) int {
	path, err := exec.LookPath(binary)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		fmt.Fprintf(stderr, "demo: %v\ndemo: hint: make build\n", err)
		return 1
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(stderr, "demo: root is needed to make network namespaces and to load BPF programs")
		fmt.Fprintln(stderr, "demo: hint: sudo make demo")
		return 1
	}
	d := &demo{out: stdout, binary: dnsteer.Binary(path), lacks: seed.Missing}
	stop := d.watchSignals()
	defer stop()
	err = d.show()
	if d.interrupted.Load() {
		fmt.Fprintln(stderr, "\ndemo: interrupted; everything that it made is removed")
		return 130
	}
	if err != nil {
		fmt.Fprintf(stderr, "\ndemo: %v\n", err)
		return 1
	}
	return 0
}

func (d *demo) show() error {
	rows, err := d.tell()
	if err != nil {
		return err
	}
	if err := d.getent(); err != nil {
		return err
	}
	return d.conclude(rows)
}

// world runs f as a test runs, with what f makes removed at the end. What f reports
// is part of the error.
func (d *demo) world(name string, f func(tb testing.TB)) error {
	if d.interrupted.Load() {
		return fmt.Errorf("interrupted")
	}
	var log bytes.Buffer
	if err := testenv.Run(name, &log, f); err != nil {
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(log.Bytes()))
	}
	return nil
}

// watchSignals makes Ctrl-C, or a SIGTERM, end our children: whoever waits for one
// then fails, and everything is cleaned up on the way out.
func (d *demo) watchSignals() (stop func()) {
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	go func() {
		select {
		case <-done:
			return
		case <-signals:
		}
		d.interrupted.Store(true)
		tick := time.NewTicker(50 * time.Millisecond) // a child may be about to be started
		defer tick.Stop()
		for {
			for _, pid := range dnsteer.Children(os.Getpid()) {
				_ = unix.Kill(pid, unix.SIGTERM) // it may have ended
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}
