// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
)

const (
	// portPatience is how long the sockets of a resolver that was killed may take to go.
	portPatience = 5 * time.Second
	// The resolver is started again at once, then ever more slowly if it keeps ending.
	restartFirst, restartMost = 50 * time.Millisecond, 10 * time.Second
)

// startOn starts the resolver again on the port that it had.
func (h *host) startOn(port uint16) error {
	listeners, err := h.listenPatiently(port)
	if err != nil {
		return err
	}
	return h.start(listeners)
}

// listenPatiently is loader.Listen for a port that may be busy for a moment yet.
func (h *host) listenPatiently(port uint16) (*loader.Listeners, error) {
	deadline := time.Now().Add(portPatience)
	for told := false; ; told = true {
		listeners, err := loader.Listen(port)
		if err == nil || !errors.Is(err, unix.EADDRINUSE) || time.Now().After(deadline) {
			return listeners, err
		}
		if !told {
			h.say("port %d is taken; waiting up to %v", port, portPatience)
		}
		time.Sleep(restartFirst)
	}
}

// supervise reloads on hup and begins again when the resolver ends, until ctx ends.
// Without resolver, queries go to their nameserver.
func (h *host) supervise(ctx context.Context, hup <-chan os.Signal, begin func() error) {
	wait := restartFirst
	for {
		started := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-hup:
			if h.ended != nil { // we have a resolver
				h.reload()
			}
			continue
		case <-h.ended: // nil, and never ready, with --resolver=none
		}
		h.kill()
		if time.Since(started) > restartMost {
			wait = restartFirst
		}
		h.say("the resolver has ended; starting it again in %v", wait)
		// Connected sockets still have it as their peer, and are refused.
		h.move("with a dead resolver", h.datapath.Return)
		if wait = h.beginAgain(ctx, wait, begin); wait == 0 {
			return
		}
		h.move("with their nameserver", h.datapath.Resteer)
	}
}

// beginAgain tries until it succeeds, and returns how long to wait the next time; 0
// says that ctx has ended.
func (h *host) beginAgain(ctx context.Context, wait time.Duration, begin func() error) time.Duration {
	for {
		select {
		case <-ctx.Done():
			return 0
		case <-time.After(wait):
		}
		wait = min(2*wait, restartMost)
		err := begin()
		if err == nil {
			return wait
		}
		h.say("start the resolver again: %v; next try in %v", err, wait)
	}
}

// move moves connected sockets and returns how many. One that stays where it is asks
// in vain or past the resolver, which its application may notice.
func (h *host) move(stay string, move func() (int, error)) int {
	moved, err := move()
	if err != nil {
		h.say("warning: some connected sockets stay %s: %v", stay, err)
	}
	return moved
}

func (h *host) say(format string, args ...any) {
	fmt.Fprintf(h.stderr, "dnsteer: "+format+"\n", args...)
}
