// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/dnsteer/dnsteer/resolver/internal/mmsg"
)

// A forged answer must have the ID and the port of its query (RFC 5452 section 9.2).
// The ID is random, the port is the kernel's choice of some 28,000. A port that many
// queries share gives nothing away as long as nobody learns its number; so it lives
// shorter than a scan for open ports takes.
const (
	// maxPorts is how many ports to one upstream take new queries, and minPorts are
	// enough for a query to draw one of them.
	maxPorts, minPorts = 8, 4
	// maxUses is how many queries a port takes: at full speed it is gone within
	// milliseconds, and what it costs to open one is shared by as many.
	maxUses = 64
	// portLife is how long a port takes new queries at low speed.
	portLife = time.Second
)

// port is a connected UDP socket to an upstream: the kernel chose its number and
// checks where answers come from. It closes when it takes no more queries and has no
// answer to wait for.
type port struct {
	peer *peer
	conn net.Conn
	born time.Time

	mu      sync.Mutex // guards what follows
	waiting map[uint16]*try
	uses    int
	retired bool
	closed  bool
}

func newPort(p *peer, conn net.Conn) *port {
	return &port{peer: p, conn: conn, born: time.Now(), waiting: make(map[uint16]*try)}
}

// isOld reports whether the port has taken queries for long enough.
func (p *port) isOld(now time.Time) bool { return now.Sub(p.born) >= portLife }

// add gives a try an ID that no other query from here has; false if the port takes
// none any more. last says that this was its last.
func (p *port) add(t *try) (id uint16, last, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired {
		return 0, false, false
	}
	id = freeID(p.waiting)
	p.waiting[id] = t
	p.uses++
	return id, p.uses >= maxUses, true
}

// freeID is an unpredictable one that no query on the same socket has. There are many
// more of them than queries that may wait.
func freeID(waiting map[uint16]*try) uint16 {
	id := newID()
	for waiting[id] != nil {
		id = newID()
	}
	return id
}

// take ends the wait for a try's answer, true for the first who does.
func (p *port) take(t *try, id uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[id] != t {
		return false
	}
	delete(p.waiting, id)
	p.closeIfDone()
	return true
}

// forget implements waiter.
func (p *port) forget(t *try, id uint16) { p.take(t, id) }

// retire lets the port take no more queries.
func (p *port) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = true
	p.closeIfDone()
}

func (p *port) closeIfDone() {
	if p.retired && len(p.waiting) == 0 && !p.closed {
		p.closed = true
		_ = p.conn.Close()
	}
}

// close closes now, whoever waits.
func (p *port) close() {
	p.retire()
	p.fail(net.ErrClosed)
}

// fail tells all who wait what is wrong with the socket: that nobody listens at the
// other end, usually.
func (p *port) fail(err error) {
	p.mu.Lock()
	waiting := p.waiting
	p.waiting = make(map[uint16]*try)
	p.closeIfDone()
	p.mu.Unlock()
	for _, t := range waiting {
		t.deliver(nil, err)
	}
}

// send sends the query of a try that add has given an ID, unless nobody wants to know
// any more.
func (p *port) send(t *try, id uint16) error {
	if !t.waits(p, id) {
		p.forget(t, id)
		return nil
	}
	return p.write(t, id)
}

// write sends a try's query. The error may be about an earlier one: then the upstream
// is down for all of them.
func (p *port) write(t *try, id uint16) error {
	_, err := p.conn.Write(outgoing(t.req, id, t.opt))
	if err == nil {
		return nil
	}
	ours := p.take(t, id)
	p.fail(err)
	if !ours {
		return nil // it was delivered meanwhile
	}
	return err
}

// read hands out answers until the port is closed.
func (p *port) read() {
	next, release := p.reader()
	defer release()
	for {
		err := next(p.receive)
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed):
			p.fail(net.ErrClosed)
			return
		case isPassing(err):
			p.fail(err)
		default:
			p.peer.drop(p)
			p.fail(err)
			return
		}
	}
}

// reader reads many datagrams at a time where the socket is the kernel's own.
func (p *port) reader() (next func(func([]byte)) error, release func()) {
	if conn, ok := p.conn.(*net.UDPConn); ok {
		if s, err := mmsg.New(conn); err == nil {
			return func(receive func([]byte)) error {
				b, err := s.Read()
				if err != nil {
					return err
				}
				for i := range b.Len() {
					receive(b.Datagram(i))
				}
				return nil
			}, s.Release
		}
	}
	buf := make([]byte, maxWire)
	return func(receive func([]byte)) error {
		n, err := p.conn.Read(buf)
		if err == nil {
			receive(buf[:n])
		}
		return err
	}, func() {}
}

// receive finds the try that a datagram answers. What does not match is noise or an
// attack, and the try goes on waiting.
func (p *port) receive(wire []byte) {
	if len(wire) < headerLen {
		return
	}
	p.mu.Lock()
	id := binary.BigEndian.Uint16(wire)
	t := p.waiting[id]
	p.mu.Unlock()
	if t == nil {
		return
	}
	reply, err := parseMessage(bytes.Clone(wire))
	if err != nil {
		head, headErr := parseQuestion(wire)
		if headErr != nil || !isReply(head, t.req, id) {
			return
		}
		if head.isTruncated() {
			reply, err = head.headOnly(), nil
		} else {
			err = fmt.Errorf("%w: %v", errMalformed, err)
		}
	} else if !isReply(reply, t.req, id) || !t.accepts(reply) {
		return
	}
	if p.take(t, id) {
		t.deliver(reply, err)
	}
}

// draw is an unpredictable number below n, which is at most 256.
func draw(n int) int {
	var b [1]byte
	limit := 256 - 256%n // or some would come more often
	for {
		_, _ = rand.Read(b[:])
		if int(b[0]) < limit {
			return int(b[0]) % n
		}
	}
}
