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
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/cmd/internal/conflist"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

// settings are the command line.
type settings struct {
	socket    string
	state     string
	opts      loader.Options
	sources   []resolver.Source // without data until they are read
	node      conflist.Node
	uninstall bool
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "dnsteer-agent: %v\n", err)
		if errors.As(err, new(usageError)) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	fs := flag.NewFlagSet("dnsteer-agent", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&s.socket, "socket", cnirpc.DefaultSocket, "unix `socket` for dnsteer-cni")
	fs.StringVar(&s.state, "state", "/run/dnsteer/attachments", "`directory` that remembers pods over a restart; one that a reboot empties")
	fs.StringVar(&s.opts.Cgroup, "cgroup", "", "`directory` of the cgroup (v2) to steer (default: the root)")
	fs.StringVar(&s.opts.BPFFS, "bpffs", loader.DefaultBPFFS, "BPF `filesystem` for the pins")
	source := func(format resolver.Format) func(string) error {
		return func(path string) error {
			s.sources = append(s.sources, resolver.Source{Path: path, Format: format})
			return nil
		}
	}
	fs.Func("names", "`file` of names to answer, as YAML; may be repeated; read again on SIGHUP", source(resolver.FormatYAML))
	fs.Func("hosts", "`file` of names to answer, as hosts(5); may be repeated", source(resolver.FormatHosts))
	fs.StringVar(&s.node.Plugin, "cni-plugin", "", "`binary` of dnsteer-cni, to install and to keep installed (default: none)")
	fs.StringVar(&s.node.ConfDir, "cni-conf-dir", conflist.DefaultConfDir, "`directory` of CNI configurations")
	fs.StringVar(&s.node.BinDir, "cni-bin-dir", conflist.DefaultBinDir, "`directory` of CNI plugins")
	fs.BoolVar(&s.node.Entry.Required, "cni-required", false, "let pods wait for the agent")
	fs.BoolVar(&s.uninstall, "uninstall", false, "take dnsteer-cni out of the node's CNI configuration, and exit")
	if err := fs.Parse(args); err != nil {
		return s, usageError{err}
	}
	if fs.NArg() > 0 {
		return s, usageError{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	if err := cnirpc.CheckPath(s.socket); err != nil {
		return s, usageError{err}
	}
	if s.socket != cnirpc.DefaultSocket {
		s.node.Entry.Socket = s.socket
	}
	return s, nil
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if s.uninstall {
		return uninstall(s.node, log)
	}
	if os.Geteuid() != 0 {
		return errors.New("root is needed to load BPF programs and to enter namespaces")
	}
	if s.opts.Cgroup == "" {
		if s.opts.Cgroup, err = loader.CgroupRoot(); err != nil {
			return err
		}
	}
	// By their group the agent's own queries are exempt, in every namespace.
	if err := syscall.Setresgid(loader.DefaultOwner, loader.DefaultOwner, loader.DefaultOwner); err != nil {
		return fmt.Errorf("become group %d: %w", loader.DefaultOwner, err)
	}
	return s.serve(ctx, log)
}

func uninstall(node conflist.Node, log *slog.Logger) error {
	changed, err := node.Uninstall()
	log.Info("uninstalled", "changed", strings.Join(changed, " "))
	if err != nil {
		return err
	}
	return node.RemoveBinary()
}

// serve runs until SIGTERM. The socket is there when what was enrolled before is again.
func (s *settings) serve(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer cancel()
	unlock, err := lock(ctx, s.socket+".lock")
	if errors.Is(err, context.Canceled) {
		return nil // told to end before it began
	}
	if err != nil {
		return err
	}
	defer unlock()
	datapath, err := loadOrAdopt(s.opts)
	if err != nil {
		return err
	}
	defer datapath.Close()
	a, err := newAgent(datapath, store{s.state}, log)
	if err != nil {
		return err
	}
	defer a.close()
	if err := s.readNames(a); err != nil {
		return err
	}
	a.restore()
	l, err := cnirpc.Listen(s.socket)
	if err != nil {
		return err
	}
	defer func() { _ = cnirpc.Remove(s.socket) }()
	go s.watchNames(ctx, a)
	go a.reconcileLoop(ctx)
	if s.node.Plugin != "" {
		go s.node.Watch(ctx, func(changed []string, err error) { reportInstall(log, changed, err) })
	}
	log.Info("serving", "cgroup", s.opts.Cgroup, "socket", s.socket)
	return (&cnirpc.Server{Agent: a, Log: log}).Serve(ctx, l)
}

func reportInstall(log *slog.Logger, changed []string, err error) {
	if len(changed) > 0 {
		log.Info("installed", "changed", strings.Join(changed, " "))
	}
	if err != nil {
		log.Warn("pods are not announced", "err", err)
	}
}

// readNames gives the agent the table, or keeps the old one if a source is bad.
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
	table, err := resolver.ParseTable(sources...)
	if err != nil {
		return err
	}
	for _, w := range table.Warnings() {
		a.log.Warn("names", "warning", w)
	}
	a.setTable(table)
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
