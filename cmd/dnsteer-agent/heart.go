// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

// pingTimeout is how late the resolver may answer and still count as alive: a burst of
// queries ahead of the ping is no reason to pass it by.
const pingTimeout = 3 * loader.HeartbeatInterval

// heart beats for all scopes as long as the resolver answers. It asks on a socket of its
// own in the agent's namespace: what one resolver does for all pods hangs for all.
type heart struct {
	agent *agent
	conn  *net.UDPConn
}

func newHeart(a *agent) (*heart, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("listen for pings: %w", err)
	}
	return &heart{a, conn}, nil
}

// run beats until ctx ends.
func (h *heart) run(ctx context.Context) {
	self := h.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	serving, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := h.agent.server.Serve(serving, resolver.Listeners{UDP: []*net.UDPConn{h.conn}}); err != nil {
			h.agent.log.Error("stop answering pings", "err", err)
		}
	}()
	defer func() { stop(); <-served }()
	tick := time.NewTicker(loader.HeartbeatInterval)
	defer tick.Stop()
	for {
		pinging, cancel := context.WithTimeout(ctx, pingTimeout)
		err := resolver.Ping(pinging, self)
		cancel()
		if err == nil {
			h.agent.beat()
		} else if ctx.Err() == nil {
			h.agent.log.Warn("miss a heartbeat", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// beat renews the heartbeat of every scope.
func (a *agent) beat() {
	a.mu.Lock()
	var scopes []scope
	for _, p := range a.pods {
		if p.scope != nil {
			scopes = append(scopes, p.scope)
		}
	}
	a.mu.Unlock()
	for _, s := range scopes {
		_ = s.beat() // one that ends meanwhile has none
	}
}
