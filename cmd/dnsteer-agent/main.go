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

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/privilege"
	"github.com/dnsteer/dnsteer/cmd/internal/names"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "dnsteer-agent: %v\n", err)
		if errors.As(err, new(usageError)) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.probe != "" {
		return s.runProbe(ctx)
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if os.Geteuid() != 0 {
		return errors.New("root is needed to load BPF programs and to enter namespaces")
	}
	if s.opts.Cgroup == "" {
		if s.opts.Cgroup, err = cgroupRoot(s.root); err != nil {
			return err
		}
	}
	if s.remove {
		return s.uninstall(log)
	}
	if err := os.MkdirAll(s.runDir(), 0o700); err != nil { // root's, as what is in it
		return fmt.Errorf("make directory of the agent: %w", err)
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

// openNames reads the files of names and opens the other sources, and lets the server
// follow them.
func (s *settings) openNames(a *agent) error {
	a.names = resolver.NewNames()
	a.files = a.names.AddLayer("files")
	if err := s.readNames(a); err != nil {
		return err
	}
	if s.sourcesFile != "" {
		config, err := names.ReadConfig(s.sourcesFile)
		if err != nil {
			return err
		}
		if a.sources, err = names.Open(config, a.names, a.log); err != nil {
			return err
		}
	}
	a.names.Follow(a.server)
	return nil
}

// readNames gives the agent the names of files, or keeps the old ones if one is bad.
func (s *settings) readNames(a *agent) error {
	var sources []resolver.Source
	for _, source := range s.sources {
		data, err := os.ReadFile(source.Path)
		if err != nil {
			return fmt.Errorf("read names: %w", err)
		}
		source.Data = data
		sources = append(sources, source)
	}
	warnings, err := a.files.SetFiles(sources...)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		a.log.Warn("names", "warning", w)
	}
	return nil
}

func (s *settings) watchNames(ctx context.Context, a *agent) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			if err := s.readNames(a); err != nil {
				a.log.Warn("keep the old names", "err", err)
			}
		}
	}
}
