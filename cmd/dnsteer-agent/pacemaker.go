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

// pacemaker has the heart beat for as long as the resolver answers. It asks on a socket of
// its own in the agent's namespace: what one resolver does for all pods hangs for all.
type pacemaker struct {
	agent *agent
	conn  *net.UDPConn
}

func newPacemaker(a *agent) (*pacemaker, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("listen for pings: %w", err)
	}
	return &pacemaker{a, conn}, nil
}

// run beats until ctx ends.
func (m *pacemaker) run(ctx context.Context) {
	self := m.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	serving, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := m.agent.server.Serve(serving, resolver.Listeners{UDP: []*net.UDPConn{m.conn}}); err != nil {
			m.agent.log.Error("stop answering pings", "err", err)
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
			err = m.agent.heart.Beat()
		}
		if err != nil && ctx.Err() == nil {
			m.agent.log.Warn("miss a heartbeat", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
