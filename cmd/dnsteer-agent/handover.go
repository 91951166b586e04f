// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/handover"
)

// How an agent hands over to the next. Both serve the same sockets for a while: whoever
// reads a query answers it. See README.md.
//
//	next                                      the one that runs
//	hello (version)  ──────────────────────►
//	                 ◄────────────────────── welcome
//	                    (next updates the datapath's programs)
//	send, or end     ──────────────────────►  pods do not change any more
//	                 ◄────────────────────── pod + namespace, listeners     one by one
//	got              ──────────────────────►
//	                 ◄────────────────────── all
//	serving          ──────────────────────►
//	                 ◄────────────────────── yours + lock, the plugin's socket
//	thanks           ──────────────────────►  drains, and waits behind the lock
//
// Until thanks has come everything is still the old one's, who goes on as if nothing had
// been if the connection ends.

// handoverVersion goes up when one side would misunderstand the other.
const handoverVersion = 1

// word is what a packet is about.
type word string

const (
	wordHello   word = "hello"
	wordWelcome word = "welcome"
	wordSend    word = "send"
	wordEnd     word = "end"
	wordPod     word = "pod"
	wordGot     word = "got"
	wordAll     word = "all"
	wordServing word = "serving"
	wordYours   word = "yours"
	wordThanks  word = "thanks"
)

type message struct {
	Word    word    `json:"word"`
	Version int     `json:"version,omitempty"` // of hello and welcome
	Pod     *parcel `json:"pod,omitempty"`
}

const (
	// answerTimeout is for what the other side does at once. An agent that hangs is one
	// whose successor has to wait until somebody kills it.
	answerTimeout = 3 * time.Second
	// prepareTimeout is for the successor to load programs, and to begin to serve.
	prepareTimeout = 30 * time.Second
)

// errUnexpected is the other side's fault.
var errUnexpected = errors.New("unexpected word in a hand-over")

// expect receives a packet that says one of these words.
func expect(c *handover.Conn, timeout time.Duration, words ...word) (message, []*os.File, error) {
	var m message
	files, err := c.Receive(&m, timeout)
	if err != nil {
		return m, nil, fmt.Errorf("wait for %q: %w", words[0], err)
	}
	for _, w := range words {
		if m.Word == w {
			return m, files, nil
		}
	}
	handover.CloseAll(files)
	return m, nil, fmt.Errorf("%w: %q in the place of %q", errUnexpected, m.Word, words[0])
}

// door is where the next agent knocks.
type door struct {
	agent    *agent
	listener *net.UnixListener
	lock     *os.File
	plugins  *pluginSocket
	mark     func(relieved bool) error // for this instance, should it be started again
}

// open hands over to whoever comes, until one has taken over or ctx ends. It returns
// whether one has. With an error none has, and we have nothing any more.
func (d *door) open(ctx context.Context) (relieved bool, err error) {
	defer context.AfterFunc(ctx, func() { _ = d.listener.SetDeadline(time.Unix(1, 0)) })()
	told := ""
	for {
		conn, err := d.listener.AcceptUnix()
		if ctx.Err() != nil && err != nil {
			return false, nil
		}
		if err != nil { // there is no descriptor left, or the like
			if told != err.Error() {
				d.agent.log.Warn("no agent can take over now", "err", err)
				told = err.Error()
			}
			select {
			case <-ctx.Done():
			case <-time.After(askInterval):
			}
			continue
		}
		c, err := handover.Accept(conn)
		if err != nil {
			d.agent.log.Warn("refuse a hand-over", "err", err)
			continue
		}
		err = d.handOver(c, context.AfterFunc(ctx, c.Close))
		c.Close()
		if err == nil {
			return true, nil
		}
		if ctx.Err() == nil && errors.Is(err, errNotTaken) {
			return true, err
		}
		if ctx.Err() == nil {
			d.agent.log.Warn("go on: the next agent has not taken over", "err", err)
		}
		d.resume(ctx)
	}
}

// resume lets plugins ask again, as soon as there are the descriptors for it.
func (d *door) resume(ctx context.Context) {
	told := false
	for {
		err := d.plugins.resume()
		if err == nil {
			return
		}
		if !told {
			d.agent.log.Warn("plugins have to wait", "err", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(askInterval):
		}
	}
}

// handOver is the side of the agent that runs. It can be stopped until stop is called. After
// an error plugins may have been paused.
func (d *door) handOver(c *handover.Conn, stop func() bool) error {
	defer stop()
	if m, _, err := expect(c, answerTimeout, wordHello); err != nil || m.Version != handoverVersion {
		return errors.Join(err, fmt.Errorf("the next agent's version is %d, ours %d", m.Version, handoverVersion))
	}
	if err := c.Send(message{Word: wordWelcome, Version: handoverVersion}, answerTimeout); err != nil {
		return err
	}
	m, _, err := expect(c, prepareTimeout, wordSend, wordEnd)
	if err != nil {
		return err
	}
	// A plugin that asks now finds the socket, and its answer a little later.
	d.plugins.pause()
	d.agent.turn.Lock() // no reconcile
	defer d.agent.turn.Unlock()
	if err := d.give(c, m.Word == wordEnd, stop); err != nil {
		d.agent.reclaim()
		err = errors.Join(err, d.mark(false))
		if m.Word == wordEnd { // the datapath may be gone, or another
			err = errors.Join(errNotTaken, err)
		}
		return err
	}
	return nil
}

// give gives away everything. If end is true the next agent cannot use the datapath, and
// ours ends first.
func (d *door) give(c *handover.Conn, end bool, stop func() bool) error {
	if end {
		d.agent.log.Info("end the scopes: the next agent's datapath has another layout")
		d.agent.endAll()
	}
	if err := d.sendPods(c); err != nil {
		return err
	}
	if _, _, err := expect(c, prepareTimeout, wordServing); err != nil {
		return err
	}
	socket, err := d.plugins.file()
	if err != nil {
		return err
	}
	defer socket.Close()
	if !stop() {
		return context.Canceled
	}
	if err := d.mark(true); err != nil {
		d.agent.log.Warn("if this process is started again it will ask to run", "err", err)
	}
	if err := c.Send(message{Word: wordYours}, answerTimeout, d.lock, socket); err != nil {
		return err
	}
	// From here on it may be theirs, and only they can say so: no time limit. If they hang
	// now, both are there until one is killed.
	_, _, err = expect(c, 0, wordThanks)
	return err
}

func (d *door) sendPods(c *handover.Conn) error {
	a := d.agent
	a.mu.Lock()
	var pods []*pod
	for _, p := range a.pods {
		pods = append(pods, p)
	}
	a.mu.Unlock()
	for _, p := range pods {
		out, files := p.pack()
		if err := c.Send(message{Word: wordPod, Pod: &out}, answerTimeout, files...); err != nil {
			return err
		}
		// One by one: the kernel bounds the descriptors that are on their way.
		if _, _, err := expect(c, prepareTimeout, wordGot); err != nil {
			return err
		}
	}
	return c.Send(message{Word: wordAll}, answerTimeout)
}
