// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"

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
	// maxUses is how many queries a port takes, and some more where no other one is open
	// yet: at full speed it is gone within a second too, and what it costs to open one is
	// shared by as many.
	maxUses = 4096
	// portLife is how long a port takes new queries at low speed.
	portLife = time.Second
)

// port is a connected UDP socket to an upstream: the kernel chose its number and
// checks where answers come from. It closes when it takes no more queries and has no
// answer to wait for.
type port struct {
	pending
	peer   *peer
	conn   net.Conn
	socket *mmsg.Socket // nil for a socket that is not the kernel's own
	born   time.Time
}

func newPort(p *peer, conn net.Conn) *port {
	open := &port{peer: p, conn: conn, born: time.Now()}
	open.idle = open.closeIfRetired
	if udp, ok := conn.(*net.UDPConn); ok {
		open.socket, _ = mmsg.New(udp, open.fail)
	}
	return open
}

// isOld reports whether the port has taken queries for long enough.
func (p *port) isOld(now time.Time) bool { return now.Sub(p.born) >= portLife }

// forget implements waiter.
func (p *port) forget(t *try, id uint16) { p.take(t, id) }

// closeIfRetired lets the loop of the port close it: Close would wait for the loop, which
// may be who calls, or wait for who does.
func (p *port) closeIfRetired() {
	switch {
	case !p.retired || p.closed:
	case p.socket == nil:
		p.closed = true
		_ = p.conn.Close()
	default:
		p.closed = true
		_ = p.conn.SetReadDeadline(time.Unix(1, 0))
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
	for _, t := range p.abort() {
		t.deliver(delivery{err: err})
	}
}

// send sends the query of a try that add has given an ID, unless nobody wants to know
// any more. An error may be about an earlier query: then the upstream is down for all
// of them. That a query is too long is about itself.
func (p *port) send(t *try, id uint16) {
	if !t.waits(p, id) {
		p.forget(t, id)
		return
	}
	wire := outgoing(nil, t.req, id, t.opt)
	t.left.Store(true)
	_, err := p.conn.Write(wire)
	switch {
	case err == nil:
	case !errors.Is(err, unix.EMSGSIZE):
		p.fail(err)
	case p.take(t, id):
		t.deliver(delivery{err: err})
	}
}

// read hands out answers until the port is closed.
func (p *port) read() {
	defer p.conn.Close()
	var in hearing
	next := func() error { return p.socket.Serve(func(b *mmsg.Batch) { p.hear(&in, b) }) }
	if p.socket == nil {
		buf := make([]byte, maxWire)
		next = func() error { return p.hearOne(&in, buf) }
	}
	for {
		err := next()
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed), p.isClosed():
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

// hearing is what the loop of a port uses again and again.
type hearing struct {
	now    time.Time // when it has read
	reply  message
	out    mmsg.Outbox // answers to clients, which leave together
	served []*serving  // whose they are
}

// hear hands out the answers of a batch.
func (p *port) hear(in *hearing, b *mmsg.Batch) {
	in.now = time.Now()
	for i := range b.Len() {
		p.receive(in, b.Datagram(i))
	}
	in.end()
}

// hearOne is hear for any socket.
func (p *port) hearOne(in *hearing, buf []byte) error {
	n, err := p.conn.Read(buf)
	if err != nil {
		return err
	}
	in.now = time.Now()
	p.receive(in, buf[:n])
	in.end()
	return nil
}

// end lets the answers leave, and nobody wait for them any more.
func (in *hearing) end() {
	in.out.Flush()
	for _, v := range in.served {
		v.queries.Done()
	}
	in.served = in.served[:0]
}

// receive finds the try that a datagram answers.
func (p *port) receive(in *hearing, wire []byte) {
	t, reply, err := p.match(&in.reply, wire)
	if t == nil {
		return
	}
	if err != nil && in.reply.isTruncated() {
		reply, err = in.reply.headOnly(), nil
	}
	t.deliver(delivery{reply: reply, err: err, in: in})
}
