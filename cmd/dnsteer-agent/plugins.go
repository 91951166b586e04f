// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
)

// pluginSocket answers dnsteer-cni. It can pause: who asks meanwhile waits in the socket's
// backlog, for us or for whoever has the socket next.
type pluginSocket struct {
	agent    cnirpc.Agent
	log      *slog.Logger
	listener *net.UnixListener // never served itself: Serve closes what it is given

	stop context.CancelFunc // nil while it is paused
	all  sync.WaitGroup
}

// file is another descriptor of the socket.
func (p *pluginSocket) file() (*os.File, error) { return p.listener.File() }

// resume answers, until pause; it may do so already.
func (p *pluginSocket) resume() error {
	if p.stop != nil {
		return nil
	}
	f, err := p.file()
	if err != nil {
		return fmt.Errorf("serve plugins: %w", err)
	}
	l, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("serve plugins: %w", err)
	}
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	p.all.Go(func() {
		if err := (&cnirpc.Server{Agent: p.agent, Log: p.log}).Serve(ctx, l.(*net.UnixListener)); err != nil {
			p.log.Error("stop serving plugins", "err", err)
		}
	})
	return nil
}

// pause returns when what was asked is answered.
func (p *pluginSocket) pause() {
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
	p.all.Wait()
}

func (p *pluginSocket) close() {
	p.pause()
	_ = p.listener.Close()
}
