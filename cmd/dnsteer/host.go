// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/resolvconf"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

// settings are what exec and run have in common.
type settings struct {
	names  nameFiles
	routes []resolver.Route
	// forwardSpecial is resolver.Config.ForwardSpecial.
	forwardSpecial bool
	randomCase     bool // resolver.Config.RandomCase
	// hungAfter is how long a resolver is silent that is started again; 0 is for ever.
	hungAfter time.Duration

	only       []netip.Prefix
	except     []netip.Prefix
	failClosed bool
	untagged   bool
}

// host is the privileged side: it owns the datapath and the listeners, and starts, enrols
// and ends the worker. What carries the scope is the worker's alone once it serves: were a
// copy left here, queries would be steered to a dead resolver. The listeners are not: what
// arrives there while one worker takes the place of another waits.
type host struct {
	settings  settings
	datapath  *loader.Datapath
	listeners *loader.Listeners // nil with --resolver=none
	stderr    io.Writer
	page      pageListener // where the worker serves its metrics; nil without
	queryLog  int          // one query in so many is logged; 0 is none
	restarts  restartLog

	mu     sync.Mutex // one request at a time
	worker *exec.Cmd
	ctl    *control
	ended  chan struct{} // closed when the worker has ended
}

// start starts a worker on the listeners, and enrols it when it serves.
func (h *host) start() error {
	sealed, err := h.listeners.Seal()
	if err != nil {
		return err
	}
	enrolment, err := h.datapath.Attend(sealed)
	if err != nil {
		sealed.Close()
		return err
	}
	defer enrolment.Close()
	scope := h.scope()
	resp, err := h.spawn(enrolment, scope, nil)
	if resp.Refused {
		// Before Linux 5.19 the kernel may want CAP_BPF even for a map that one was given.
		resp, err = h.spawn(enrolment, scope, []uintptr{unix.CAP_BPF})
	}
	if err != nil {
		return err
	}
	h.warn(resp.Warnings)
	if err := h.enrol(enrolment, scope); err != nil {
		h.kill()
		return err
	}
	return nil
}

// scope is that of this namespace, as resolv.conf is now.
func (h *host) scope() loader.Scope {
	conf := resolvconf.Read(resolvconf.Path)
	return loader.Scope{
		OwnerUID:    loader.DefaultOwner,
		OwnerGID:    loader.DefaultOwner,
		PrimaryIPv4: conf.Primary(netip.Addr.Is4),
		PrimaryIPv6: conf.Primary(netip.Addr.Is6),
		FailClosed:  h.settings.failClosed,
		Untagged:    h.settings.untagged,
	}
}

func (h *host) enrol(enrolment *loader.Enrolment, scope loader.Scope) error {
	if scope.FailClosed {
		// A dead listener cannot say that it wants to be missed; the namespace's entry does.
		cookie, err := loader.NamespaceCookie()
		if err != nil {
			return err
		}
		if err := h.datapath.EnrolNamespace(cookie, scope, false); err != nil {
			return err
		}
	}
	if err := enrolment.Enrol(scope); err != nil {
		return err
	}
	_, err := h.call(request{Do: doBeat})
	return err
}

// spawn starts the worker and waits until it serves.
func (h *host) spawn(enrolment *loader.Enrolment, scope loader.Scope, ambient []uintptr) (response, error) {
	maps, listeners, err := enrolment.Files()
	if err != nil {
		return response{}, err
	}
	for _, m := range maps {
		defer m.Close()
	}
	files := append(maps, listeners...)
	observed, err := h.observed()
	if err != nil {
		return response{}, err
	}
	for _, f := range observed {
		defer f.Close()
	}
	ctl, theirs, err := newControl()
	if err != nil {
		return response{}, err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", workerCommandName, strconv.Itoa(len(files)), strconv.Itoa(len(observed)))
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.Stderr = h.stderr
	cmd.ExtraFiles = slices.Concat([]*os.File{theirs}, files, observed)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: loader.DefaultOwner, Gid: loader.DefaultOwner},
		AmbientCaps: ambient,
		Setsid:      true, // what the terminal sends is for CMD
	}
	if err := cmd.Start(); err != nil {
		ctl.close()
		return response{}, workerStartError(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	h.mu.Lock()
	h.worker, h.ctl, h.ended = cmd, ctl, ended
	h.mu.Unlock()
	resp, err := h.configure(scope)
	if err != nil {
		h.kill()
	}
	return resp, err
}

func workerStartError(err error) error {
	err = fmt.Errorf("start the resolver as UID %d: %w", loader.DefaultOwner, err)
	if errors.Is(err, os.ErrPermission) {
		path, _ := os.Executable()
		return withHint(err, "every user must be able to execute dnsteer: chmod 755 "+path)
	}
	return err
}

func (h *host) configure(scope loader.Scope) (response, error) {
	r, err := h.namesRequest(doConfigure)
	if err != nil {
		return response{}, err
	}
	r.Scope, r.QueryLog = scope, h.queryLog
	return h.call(r)
}

func (h *host) namesRequest(do verb) (request, error) {
	sources, err := h.settings.names.read()
	if err != nil {
		return request{}, err
	}
	conf := resolvconf.Read(resolvconf.Path)
	return request{Do: do, Sources: sources, Routes: h.settings.routes, ForwardSpecial: h.settings.forwardSpecial, RandomCase: h.settings.randomCase,
		Search: conf.Search, Timeout: conf.Timeout, Attempts: conf.Attempts, Rotate: conf.Rotate}, nil
}

// reload reads the names again; if they are bad, what is served stays.
func (h *host) reload() {
	r, err := h.namesRequest(doNames)
	var resp response
	if err == nil {
		resp, err = h.call(r)
	}
	if err != nil {
		fmt.Fprintf(h.stderr, "dnsteer: keep the old names: %v\n", err)
		return
	}
	h.warn(resp.Warnings)
}

func (h *host) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(h.stderr, "dnsteer: warning: %s\n", w)
	}
}

func (h *host) call(r request) (response, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctl == nil {
		return response{}, errors.New("the resolver has ended")
	}
	return h.ctl.call(r)
}

// watch reloads the names whenever their files change, until ctx ends.
func (h *host) watch(ctx context.Context) {
	h.settings.names.watch(ctx, []string{resolvconf.Path}, h.reload)
}

// settleTime is for what takes milliseconds: a query that has passed a hook arrives at the
// resolver, an answer is read by its application.
const settleTime = 500 * time.Millisecond

// unload ends the datapath, and the worker, if any, when it has answered.
func (h *host) unload() error {
	var stopped error
	err := h.datapath.Unload(func() {
		time.Sleep(settleTime)
		stopped = h.stop()
		time.Sleep(settleTime)
	})
	return errors.Join(err, stopped)
}

// stop ends the worker, if any: withdrawn first, and not before everything that has arrived
// is answered. One that does not obey is killed; the kernel then withdraws the scope.
func (h *host) stop() error {
	if h.ctl == nil {
		return nil
	}
	_, err := h.call(request{Do: doWithdraw})
	if err == nil {
		_, err = h.call(request{Do: doStop})
	}
	if err == nil {
		select {
		case <-h.ended:
		case <-time.After(controlTimeout):
			err = errors.New("the resolver does not end")
		}
	}
	h.kill()
	return err
}

// kill ends the worker at once, and returns when its sockets are closed: nothing is
// steered any more.
func (h *host) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctl == nil {
		return
	}
	_ = h.worker.Process.Kill() // no error that matters: it may have ended
	<-h.ended
	h.ctl.close()
	h.ctl = nil
}

// listen opens the listeners on the first port that is free.
func listen(first uint16, tries int) (*loader.Listeners, error) {
	var err error
	for port := first; tries > 0; port, tries = port+1, tries-1 {
		var l *loader.Listeners
		if l, err = loader.Listen(port); err == nil {
			return l, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, err
}

// outliveReaders lets us go on when nobody reads stderr any more: of "dnsteer run 2>&1 | tee
// log", Ctrl-C ends tee first, and SIGPIPE would end us half-way.
func outliveReaders() { signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) }
