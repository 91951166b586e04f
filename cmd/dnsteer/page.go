// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsteer/dnsteer/cmd/internal/observe"
	"github.com/dnsteer/dnsteer/loader"
)

// pageListener is a listener whose descriptor can be passed on.
type pageListener interface {
	net.Listener
	File() (*os.File, error)
}

// listenPage opens the address of --metrics. The privileged side holds it for as long as
// it runs, so that it is there while one worker takes the place of another.
func listenPage(address string) (pageListener, error) {
	l, err := observe.Listen(address)
	if err != nil {
		return nil, err
	}
	return l.(pageListener), nil // TCP and unix both are
}

// observed are the files with which a worker serves the page; close them.
func (h *host) observed() ([]*os.File, error) {
	if h.page == nil {
		return nil, nil
	}
	counters, err := h.datapath.CountersFile()
	if err != nil {
		return nil, err
	}
	listener, err := h.page.File()
	if err != nil {
		_ = counters.Close()
		return nil, fmt.Errorf("pass on the listener for metrics: %w", err)
	}
	return []*os.File{counters, listener}, nil
}

// servePage serves the datapath's counters where no worker does.
func (s *service) servePage(ctx context.Context) {
	page := observe.Page{
		Collectors: []prometheus.Collector{observe.Verdicts(s.datapath.Counts)},
		Log:        slog.New(slog.NewTextHandler(s.stderr, nil)),
	}
	if err := page.Serve(ctx, s.page); err != nil {
		s.say("warning: %v", err)
	}
}

// workerPage is the page of the worker. Nil is none.
type workerPage struct {
	counters *loader.Counters
	listener net.Listener
	steered  atomic.Bool
	cancel   context.CancelFunc
	done     chan struct{} // closed when it is not served any more
}

// openPage takes over the files of observed.
func openPage(files []*os.File) (*workerPage, error) {
	if len(files) != 2 {
		return nil, nil
	}
	listener, err := net.FileListener(files[1])
	_ = files[1].Close()
	if err != nil {
		return nil, fmt.Errorf("open the listener for metrics: %w", err)
	}
	if l, ok := listener.(*net.UnixListener); ok {
		l.SetUnlinkOnClose(false) // the next worker uses it
	}
	counters, err := loader.OpenCounters(files[0])
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	return &workerPage{counters: counters, listener: listener}, nil
}

// serve answers requests until close.
func (p *workerPage) serve(ctx context.Context, w *worker) {
	if p == nil {
		return
	}
	page := observe.Page{
		Collectors: []prometheus.Collector{w.server.Collector(), observe.Verdicts(p.counters.Counts)},
		Healthy:    w.answers,
		Ready: func(ctx context.Context) error {
			if !p.steered.Load() {
				return errors.New("queries are not steered to the resolver")
			}
			return w.answers(ctx)
		},
		Log: w.log,
	}
	ctx, p.cancel = context.WithCancel(ctx)
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		if err := page.Serve(ctx, p.listener); err != nil {
			w.log.Warn("metrics are not served", "err", err)
		}
	}()
}

// answers finds out whether the resolver does.
func (w *worker) answers(ctx context.Context) error { return w.ping(ctx, pingTimeout) }

func (p *workerPage) setSteered(steered bool) {
	if p != nil {
		p.steered.Store(steered)
	}
}

func (p *workerPage) close() {
	if p == nil {
		return
	}
	if p.cancel != nil {
		p.cancel()
		<-p.done
	}
	_ = p.listener.Close()
	p.counters.Close()
}
