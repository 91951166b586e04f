// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/mdlayher/sdnotify"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
)

// service is one dnsteer run.
type service struct {
	host
	opts    loader.Options
	foreign bool // --resolver=none: somebody else's resolver
	keep    bool
	leaks   bool
	adopted bool // the datapath was there before us
}

func runCommand(ctx context.Context, e env, args []string) error {
	fs := newFlags("run")
	s := &service{host: host{stderr: e.stderr}}
	s.settings.add(fs)
	addOptions(fs, &s.opts)
	port := fs.Uint("port", loader.DefaultPort, "`port` of the resolver on 127.0.0.1 and ::1")
	kind := fs.String("resolver", "own", "`which` resolver: own, or none to steer to one that listens there already")
	fs.BoolVar(&s.keep, "keep", false, "leave the datapath loaded at the end: queries then go to their nameserver until the next run adopts it")
	fs.BoolVar(&s.leaks, "leaks", false, "count queries that leave unsteered, for 'dnsteer status', until the datapath is unloaded; it looks at every packet that is sent")
	metrics := fs.String("metrics", "", "serve /metrics, /healthz, /readyz and /debug/pprof on this loopback `address`, such as 127.0.0.1:9153, or unix socket")
	fs.IntVar(&s.queryLog, "query-log", 0, "log one query in `N` to stderr; 1 is each (default: none)")
	if err := parse(e, fs, args, false); err != nil {
		return err
	}
	if err := s.settings.check("run"); err != nil {
		return err
	}
	if s.queryLog < 0 {
		return usageError{fmt.Sprintf("run: --query-log=%d: want one in how many, or 0", s.queryLog), "run"}
	}
	if *kind != "own" && *kind != "none" {
		return usageError{fmt.Sprintf("run: --resolver=%s: want own or none", *kind), "run"}
	}
	if *port == 0 || *port > 65535 {
		return usageError{fmt.Sprintf("run: --port=%d: want 1 to 65535", *port), "run"}
	}
	s.foreign = *kind == "none"
	if s.foreign && (len(s.settings.names) > 0 || len(s.settings.routes) > 0 || s.queryLog > 0) {
		return usageError{"run: --hosts, --names, --upstream, --route and --query-log are for our own resolver, not with --resolver=none", "run"}
	}
	err := needRoot()
	if err != nil {
		return err
	}
	if err := defaultCgroup(&s.opts); err != nil {
		return err
	}
	s.opts.Port, s.opts.Only, s.opts.Except = uint16(*port), s.settings.only, s.settings.except
	if *metrics != "" {
		if s.page, err = listenPage(*metrics); err != nil {
			return err
		}
		defer s.page.Close()
	}
	return s.run(ctx)
}

func (s *service) run(ctx context.Context) error {
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer cancel()
	outliveReaders()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	defer signal.Stop(hup)
	// The listeners come first: of two that start in one namespace, one gets no further,
	// and has touched nothing of the other's.
	if !s.foreign {
		var err error
		if s.listeners, err = s.listenPatiently(s.opts.Port); err != nil {
			return err
		}
	}
	if err := s.acquire(); err != nil {
		return keep(err, s.unlisten())
	}
	defer s.datapath.Close()
	if f := loader.CheckOrder(s.opts); f.Severity != loader.OK {
		s.say("warning: %s", f)
	}
	err := s.serve(ctx, hup)
	if err != nil && s.adopted {
		s.keep = true // as it was before we failed to start
	}
	return keep(err, s.end())
}

// acquire loads the datapath, or adopts the one that is there: that of a run in another
// namespace, or what one that was killed, or 'dnsteer load', left.
func (s *service) acquire() error {
	var err error
	if s.datapath, s.adopted, err = loader.Acquire(s.opts); err != nil || !s.adopted {
		return err
	}
	loaded := s.datapath.Options()
	if loaded.Port != s.opts.Port {
		s.datapath.Close()
		err := fmt.Errorf("adopt the datapath of %s: it steers to port %d, not %d", s.opts.Cgroup, loaded.Port, s.opts.Port)
		return withHint(err, fmt.Sprintf("use --port %d, or run 'dnsteer unload' first", loaded.Port))
	}
	s.say("adopted the datapath that was loaded for %s", s.opts.Cgroup)
	if !loaded.SameNameservers(s.opts) {
		s.say("warning: it was loaded with %s, and stays so, while this run has %s; 'dnsteer unload' first makes those count", nameservers(loaded), nameservers(s.opts))
	}
	return nil
}

// serve runs until ctx ends, or until the first start of the resolver fails.
func (s *service) serve(ctx context.Context, hup <-chan os.Signal) error {
	if s.leaks {
		if err := s.datapath.CountLeaks(true); err != nil {
			return err
		}
	}
	begin := s.start
	if s.foreign {
		begin = s.enrolForeign
	}
	if err := begin(); err != nil {
		return err
	}
	moved := s.move("with their nameserver", s.datapath.Resteer)
	s.say("steering %s to port %d; moved %d connected sockets", s.opts.Cgroup, s.datapath.Port(), moved)
	notifier, err := sdnotify.New()
	if err == nil {
		_ = notifier.Notify(sdnotify.Statusf("steering %s", s.opts.Cgroup), sdnotify.Ready)
		defer notifier.Close()
		defer func() { _ = notifier.Notify(sdnotify.Stopping) }()
	} else if !errors.Is(err, os.ErrNotExist) { // no service manager asked
		s.say("warning: tell the service manager: %v", err)
	}
	if s.foreign && s.page != nil {
		go s.servePage(ctx)
	}
	if !s.foreign {
		if l, err := s.restarts.listen(s.datapath.Port()); err == nil {
			defer l.Close()
		} else { // somebody has taken the name
			s.say("warning: 'dnsteer status' will not tell of restarts: %v", err)
		}
	}
	go s.watch(ctx)
	s.supervise(ctx, hup)
	return nil
}

// enrolForeign enrols this namespace for whoever listens on the target.
func (s *service) enrolForeign() error {
	cookie, err := loader.NamespaceCookie()
	if err != nil {
		return err
	}
	if loader.CheckPort(loader.Options{Port: s.datapath.Port()}).Severity == loader.OK {
		s.say("warning: nobody listens on 127.0.0.1:%d yet; until somebody does, queries go to their nameserver", s.datapath.Port())
	}
	scope := loader.Scope{
		OwnerUID: loader.DefaultOwner, OwnerGID: loader.DefaultOwner,
		Untagged: true, FailClosed: s.settings.failClosed,
	}
	return s.datapath.EnrolNamespace(cookie, scope, true)
}

// end withdraws the scope, and unloads the datapath unless it is to stay or another run
// uses it for a namespace of its own.
func (s *service) end() error {
	var errs []error
	if cookie, err := loader.NamespaceCookie(); err == nil && (s.foreign || s.settings.failClosed) {
		errs = append(errs, s.datapath.WithdrawNamespace(cookie))
	}
	if s.ctl != nil {
		if _, err := s.call(request{Do: doWithdraw}); err != nil {
			s.kill() // its sockets close, which withdraws too
		}
	}
	if s.keep || !s.datapath.LastUser() {
		_, err := s.datapath.Return()
		errs = append(errs, err)
	} else {
		s.say("unloading")
		if err := s.unload(); !errors.Is(err, loader.ErrNotLoaded) { // by force, meanwhile
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, s.stop(), s.unlisten())...)
}

// unlisten gives up the port.
func (s *service) unlisten() error {
	if s.foreign {
		return nil
	}
	s.listeners.Close()
	return loader.RemoveTagRoute(s.listeners.Port)
}
