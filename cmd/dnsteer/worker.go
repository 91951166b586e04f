// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

// workerCommandName is the hidden command that host starts. Its argument is the number
// of descriptors from 4 on; descriptor 3 is the control socket.
const workerCommandName = "worker"

const controlFD = 3

// pingTimeout is how late the resolver may answer and still count as alive: a burst of
// queries ahead of the ping is no reason to pass it by. Pings may overlap, three at most.
const pingTimeout = 3 * loader.HeartbeatInterval

// worker is the resolver's process: UID/GID of the owner, no capabilities. It lives as
// long as the privileged side holds the other end of the control socket.
type worker struct {
	enrolment *loader.Enrolment
	server    *resolver.Server
	log       *slog.Logger
	queryLog  *slog.Logger
	conn      io.ReadWriteCloser // the control socket
	page      *workerPage        // nil without

	cancelServe context.CancelFunc
	served      chan struct{} // closed when Serve has ended, with serveErr
	serveErr    error
	cancelBeat  context.CancelFunc
	beaten      chan struct{} // closed when beating has ended
}

func workerCommand(ctx context.Context, e env, args []string) error {
	if len(args) != 2 {
		return usageError{"worker: only dnsteer itself starts it", "worker"}
	}
	outliveReaders()
	files, err := inherited(controlFD+1, args[0])
	if err != nil {
		return err
	}
	observed, err := inherited(controlFD+1+len(files), args[1])
	if err != nil {
		return err
	}
	w := &worker{
		log:      slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		queryLog: slog.New(slog.NewTextHandler(e.stderr, nil)),
	}
	w.conn = os.NewFile(controlFD, "control")
	if w.enrolment, err = loader.OpenEnrolment(files); err != nil {
		// The first request gets the answer: the other side knows a remedy.
		return json.NewEncoder(w.conn).Encode(response{Error: err.Error(), Refused: errors.Is(err, os.ErrPermission)})
	}
	defer w.enrolment.Close()
	if w.page, err = openPage(observed); err != nil {
		return json.NewEncoder(w.conn).Encode(response{Error: err.Error(), Refused: errors.Is(err, os.ErrPermission)})
	}
	defer w.page.close()
	return w.obey(ctx)
}

// inherited are files from a descriptor on; how many is an argument.
func inherited(first int, count string) ([]*os.File, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return nil, usageError{fmt.Sprintf("worker: %q is no number", count), "worker"}
	}
	files := make([]*os.File, n)
	for i := range files {
		files[i] = os.NewFile(uintptr(first+i), "inherited")
	}
	return files, nil
}

// obey answers requests until the other end closes, which says that nobody needs the
// worker any more: then it withdraws, answers what has arrived, and ends.
func (w *worker) obey(ctx context.Context) error {
	defer w.conn.Close()
	decoder, encoder := json.NewDecoder(w.conn), json.NewEncoder(w.conn)
	for {
		var r request
		if err := decoder.Decode(&r); err != nil {
			_ = w.withdraw()
			return w.stop()
		}
		resp, err := w.do(ctx, r)
		if err != nil {
			resp.Error = err.Error()
		}
		if err := encoder.Encode(resp); err != nil {
			w.log.Warn("answer request", "do", r.Do, "err", err)
		}
		if r.Do == doStop {
			return err
		}
	}
}

func (w *worker) do(ctx context.Context, r request) (response, error) {
	switch r.Do {
	case doConfigure:
		return w.configure(ctx, r)
	case doNames:
		return w.setNames(r)
	case doBeat:
		return response{}, w.startBeat(ctx)
	case doWithdraw:
		return response{}, w.withdraw()
	case doStop:
		return response{}, w.stop()
	}
	return response{}, fmt.Errorf("unknown request %q", r.Do)
}

func (w *worker) configure(ctx context.Context, r request) (response, error) {
	var err error
	conf := resolver.Config{Origin: w.enrolment.Origin, Logger: w.log, ForwardSpecial: r.ForwardSpecial, RandomCase: r.RandomCase}
	if r.QueryLog > 0 {
		conf.QueryLog, conf.QueryLogEvery = w.queryLog, r.QueryLog
	}
	w.server, err = resolver.New(conf)
	if err != nil {
		return response{}, err
	}
	resp, err := w.setNames(r)
	if err != nil {
		return resp, err
	}
	w.enrolment.Expect(r.Scope)
	udp, err := w.enrolment.Listeners.UDP()
	if err != nil {
		return resp, err
	}
	tcp, err := w.enrolment.Listeners.TCP()
	if err != nil {
		return resp, err
	}
	serveCtx, cancel := context.WithCancel(ctx)
	w.cancelServe, w.served = cancel, make(chan struct{})
	go func() {
		defer close(w.served)
		w.serveErr = w.server.Serve(serveCtx, resolver.Listeners{UDP: udp, TCP: tcp})
	}()
	if err := w.waitServing(ctx); err != nil {
		return resp, err
	}
	w.page.serve(ctx, w)
	return resp, nil
}

// waitServing waits until the resolver answers, or has given up. Should it give up
// later, the worker ends, and whoever started it decides.
func (w *worker) waitServing(ctx context.Context) error {
	answered := make(chan error, 1)
	go func() { answered <- w.ping(ctx, controlTimeout/2) }()
	select {
	case <-w.served:
		return w.serveErr
	case err := <-answered:
		if err != nil {
			return err
		}
	}
	go func() {
		<-w.served
		if w.serveErr != nil {
			w.log.Error("stop serving", "err", w.serveErr)
			_ = w.conn.Close() // ends obey
		}
	}()
	return nil
}

// ping asks ourselves the question that only dnsteer answers.
func (w *worker) ping(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return resolver.Ping(ctx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), w.enrolment.Listeners.Port))
}

// setNames replaces the table, or keeps it whole if one source is bad.
func (w *worker) setNames(r request) (response, error) {
	table, err := resolver.ParseTable(r.Sources...)
	if err != nil {
		return response{}, err
	}
	settings := resolver.Settings{Routes: r.Routes, Search: r.Search, Timeout: r.Timeout, Attempts: r.Attempts, Rotate: r.Rotate}
	if err := w.server.Set(settings); err != nil {
		return response{}, err
	}
	w.server.SetTable(table)
	return response{Names: table.Names(), Warnings: table.Warnings()}, nil
}

// startBeat beats as long as the resolver answers: a heartbeat that only said that the
// process lives would steer queries to a resolver that is stuck. It keeps the scope's
// addresses true too.
func (w *worker) startBeat(ctx context.Context) error {
	stopFollowing, err := w.enrolment.FollowRoutes(nil)
	if err != nil {
		return err
	}
	w.page.setSteered(true)
	ctx, w.cancelBeat = context.WithCancel(ctx)
	w.beaten = make(chan struct{})
	go func() {
		defer close(w.beaten)
		defer stopFollowing()
		var beats sync.WaitGroup
		defer beats.Wait()
		tick := time.NewTicker(loader.HeartbeatInterval)
		defer tick.Stop()
		for {
			beats.Go(func() { w.beat(ctx) })
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return nil
}

func (w *worker) beat(ctx context.Context) {
	err := w.ping(ctx, pingTimeout)
	if err == nil {
		err = w.enrolment.Beat()
	}
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ebpf.ErrKeyNotExist) {
		w.log.Warn("miss a heartbeat", "err", err)
	}
}

func (w *worker) withdraw() error {
	w.page.setSteered(false)
	if w.cancelBeat != nil {
		w.cancelBeat()
		<-w.beaten
		w.cancelBeat = nil
	}
	return w.enrolment.Withdraw()
}

func (w *worker) stop() error {
	if w.cancelServe == nil {
		return nil
	}
	w.cancelServe()
	<-w.served
	return w.serveErr
}
