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
	// connectedPatience is for how long connected sockets wait for the next resolver: it
	// is there within a tenth of a second, or within a few if it has a million names to
	// read, and most of their applications ask again after 5 s.
	connectedPatience = 3 * time.Second
)

// listenPatiently is loader.Listen for a port that may be busy for a moment yet.
func (h *host) listenPatiently(port uint16) (*loader.Listeners, error) {
	deadline := time.Now().Add(portPatience)
	for told := false; ; told = true {
		listeners, err := loader.Listen(port)
		if err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return listeners, err
		}
		if time.Now().After(deadline) {
			return nil, withHint(err, fmt.Sprintf("'ss -lntup sport = :%d' shows who has it; --port chooses another, --resolver=none steers to the one that is there", port))
		}
		if !told {
			h.say("port %d is taken; waiting up to %v", port, portPatience)
		}
		time.Sleep(restartFirst)
	}
}

// supervise reloads on hup and starts the resolver again when it ends or does not answer
// any more, until ctx ends. Without resolver, queries go to their nameserver.
func (h *host) supervise(ctx context.Context, hup <-chan os.Signal) {
	var wait time.Duration
	for started := time.Now(); ; {
		reason, ok := h.awaitEnd(ctx, hup)
		if !ok {
			return
		}
		h.kill()
		if time.Since(started) > restartMost {
			wait = 0
		}
		h.restarts.note(reason)
		h.say("%s; starting it again%s", reason, in(wait))
		if wait, ok = h.restart(ctx, wait); !ok {
			return
		}
		started = time.Now()
		h.move("with their nameserver", h.datapath.Resteer)
	}
}

// restart starts the resolver until it serves, and returns how long to wait before it is
// started the next time; it is false if ctx has ended.
//
// Connected sockets still have the resolver as their peer, so what they ask arrives at
// the listeners, where the next resolver finds it. If there is none for a while, they are
// returned to their nameserver, unless they shall not reach it.
func (h *host) restart(ctx context.Context, wait time.Duration) (time.Duration, bool) {
	patience := time.NewTimer(connectedPatience)
	defer patience.Stop()
	returned, failed := h.settings.failClosed, false
	giveBack := func() {
		if !returned {
			h.move("with a dead resolver", h.datapath.Return)
		}
		returned = true
	}
	for {
		if wait > connectedPatience {
			giveBack()
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-time.After(wait):
		}
		started := make(chan error, 1)
		go func() { started <- h.start() }()
		var err error
		select {
		case err = <-started:
		case <-patience.C:
			giveBack()
			err = <-started
		}
		wait = min(max(2*wait, restartFirst), restartMost)
		if err == nil {
			if failed {
				h.say("the resolver is back")
			}
			return wait, true
		}
		failed = true
		giveBack()
		h.say("start the resolver again: %v; next try%s", err, in(wait))
	}
}

func in(wait time.Duration) string {
	if wait == 0 {
		return ""
	}
	return fmt.Sprintf(" in %v", wait)
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
