// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/dnsteer/dnsteer/resolver"
)

const (
	// hungAfter is how long a resolver may be silent. Its heart stands still long before,
	// and queries pass it by: nothing is lost but the names of its table, so that a machine
	// with too much to do, or somebody who looks at it with a debugger, has some time.
	hungAfter = time.Minute
	// pulsePings are sent within that time; one answer is enough.
	pulsePings = 4
	// pulseInterval is how often a resolver is looked at.
	pulseInterval = 5 * time.Second
)

// awaitEnd reloads on hup, and returns why the resolver has to be started again; false if
// ctx has ended.
func (h *host) awaitEnd(ctx context.Context, hup <-chan os.Signal) (reason string, ok bool) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	hung := h.watchPulse(watching)
	for {
		select {
		case <-ctx.Done():
			return "", false
		case <-hup:
			if h.ended != nil { // we have a resolver
				h.reload()
			}
		case <-h.ended: // nil, and never ready, with --resolver=none
			return fmt.Sprintf("the resolver has ended (%v)", h.worker.ProcessState), true
		case <-hung:
			return fmt.Sprintf("the resolver has not answered for %v", h.settings.hungAfter), true
		}
	}
}

// watchPulse returns what is closed when the resolver does not answer any more, until ctx
// ends. It is nil where nobody wants to know, or the resolver is not ours.
func (h *host) watchPulse(ctx context.Context) <-chan struct{} {
	if h.ended == nil || h.settings.hungAfter == 0 {
		return nil
	}
	hung := make(chan struct{})
	go func() {
		tick := time.NewTicker(pulseInterval)
		defer tick.Stop()
		for h.answersWithin(ctx, h.settings.hungAfter) {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		if ctx.Err() == nil {
			close(hung)
		}
	}()
	return hung
}

// answersWithin reports whether the resolver answers one of some pings. The last one is
// heard until the end too, however late it is answered.
func (h *host) answersWithin(ctx context.Context, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	next := time.NewTicker(limit / pulsePings)
	defer next.Stop()
	server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), h.listeners.Port)
	answered := make(chan struct{}, pulsePings+1)
	ping := func() {
		if resolver.Ping(ctx, server) == nil {
			answered <- struct{}{}
		}
	}
	for {
		go ping()
		select {
		case <-answered:
			return true
		case <-ctx.Done():
			return false
		case <-next.C:
		}
	}
}
