// SPDX-License-Identifier: Apache-2.0

// Command dnsteer-agent steers the DNS of a node's pods: it loads or adopts the datapath,
// opens the listeners inside each pod's network namespace, and serves them all.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"

	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/privilege"
	"github.com/dnsteer/dnsteer/loader"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "dnsteer-agent: %v\n", err)
		if errors.As(err, new(usageError)) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stdout, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.probe != "" {
		return s.runProbe(ctx)
	}
	// It is for one that serves, and no reason for one that begins or waits to end.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if os.Geteuid() != 0 {
		return errors.New("root is needed to load BPF programs and to enter namespaces")
	}
	if s.opts.Cgroup == "" {
		if s.opts.Cgroup, err = s.chooseCgroup(log); err != nil {
			return err
		}
	}
	if s.remove {
		return s.uninstall(log)
	}
	if err := os.MkdirAll(s.runDir(), 0o700); err != nil { // root's, as what is in it
		return fmt.Errorf("make directory of the agent: %w", err)
	}
	// While we may: the capability is not kept.
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise RLIMIT_MEMLOCK, which takes CAP_SYS_RESOURCE before Linux 5.11: %w", err)
	}
	// By their group and user the agent's own queries are exempt, in every namespace.
	if err := privilege.Drop(loader.DefaultOwner, log); err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer cancel()
	return s.run(ctx, log)
}

func reportInstall(log *slog.Logger, changed []string, err error) {
	if len(changed) > 0 {
		log.Info("installed", "changed", strings.Join(changed, " "))
	}
	if err != nil {
		log.Warn("pods are not announced", "err", err)
	}
}
