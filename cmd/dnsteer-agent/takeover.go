// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/handover"
)

// offer is a hand-over that the agent that runs has agreed to.
type offer struct {
	conn     *handover.Conn
	accepted bool
	fresh    bool // the pods have come without scopes
}

// askFor asks the agent that runs to hand over. It fails if that does not answer, or not
// in our way: then it is waited for.
func askFor(ctx context.Context, path string) (*offer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	c, err := handover.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	err = c.Send(message{Word: wordHello, Version: handoverVersion}, answerTimeout)
	var m message
	if err == nil {
		m, _, err = expect(c, answerTimeout, wordWelcome)
	}
	if err == nil && m.Version != handoverVersion {
		err = fmt.Errorf("the agent that runs has version %d of the hand-over, we %d", m.Version, handoverVersion)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return &offer{conn: c}, nil
}

// decline leaves the agent that runs as it is.
func (o *offer) decline() { o.conn.Close() }

// accept takes over all pods, and serves them together with the agent that has served them
// so far. If fresh is true that one ends its scopes first, and the pods come without.
func (o *offer) accept(a *agent, fresh bool) error {
	o.accepted, o.fresh = true, fresh
	begin := wordSend
	if fresh {
		begin = wordEnd
	}
	if err := o.conn.Send(message{Word: begin}, answerTimeout); err != nil {
		return err
	}
	for {
		m, files, err := expect(o.conn, prepareTimeout, wordPod, wordAll)
		if err != nil {
			return err
		}
		if m.Word == wordAll {
			return nil
		}
		if m.Pod == nil {
			handover.CloseAll(files)
			return fmt.Errorf("%w: a pod without a pod", errUnexpected)
		}
		if err := a.unpack(*m.Pod, files); err != nil {
			return err
		}
		if err := o.conn.Send(message{Word: wordGot}, answerTimeout); err != nil {
			return err
		}
	}
}

// finish tells that we serve, and takes the lock and the plugin's socket.
func (o *offer) finish() (lock *os.File, socket *net.UnixListener, err error) {
	defer o.conn.Close()
	if err := o.conn.Send(message{Word: wordServing}, answerTimeout); err != nil {
		return nil, nil, err
	}
	_, files, err := expect(o.conn, prepareTimeout, wordYours)
	if err != nil {
		return nil, nil, err
	}
	if len(files) != 2 {
		handover.CloseAll(files)
		return nil, nil, fmt.Errorf("%w: %d files, want lock and socket", errUnexpected, len(files))
	}
	l, err := net.FileListener(files[1])
	_ = files[1].Close()
	socket, ok := l.(*net.UnixListener)
	if err == nil && !ok {
		err = fmt.Errorf("%w: no socket of plugins", errUnexpected)
	}
	if err == nil {
		err = o.conn.Send(message{Word: wordThanks}, answerTimeout)
	}
	if err != nil {
		if l != nil {
			_ = l.Close()
		}
		_ = files[0].Close()
		return nil, nil, err
	}
	return files[0], socket, nil
}
