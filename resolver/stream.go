// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxStreams is how many connections to one upstream there are. RFC 7766 section
	// 6.2.2 wants few; more than one, since many servers answer the queries of a
	// connection one after the other.
	maxStreams = 4
	// streamIdle closes a connection on which nobody waits, as RFC 7766 section 6.2.3
	// has it, before most servers do.
	streamIdle = 5 * time.Second
	// connectTimeout ends with the queries that wait for a connection.
	connectTimeout = timeout
)

// errClosed is how a server says that it does not like the question.
var errClosed = errors.New("closed the connection without an answer")

// stream is a connection to an upstream, TCP or TLS, with many queries on their way
// (RFC 7766 section 6.2.1.1). Answers come in any order.
type stream struct {
	pending
	peer  *peer
	ready chan struct{} // closed when conn or err are there
	conn  net.Conn
	err   error
	// cancel ends the attempt to connect.
	cancel context.CancelFunc

	writing sync.Mutex
	// reserved are queries that have chosen this connection and are not sent yet.
	reserved atomic.Int32
}

// ask sends a try by TCP. The answer, or what went wrong, is delivered to it.
func (p *peer) ask(ctx context.Context, t *try) {
	for !p.stream().ask(ctx, t) {
		// It has ended meanwhile: another one.
	}
}

// ask sends a try over this connection; false if it takes none any more.
func (s *stream) ask(ctx context.Context, t *try) (taken bool) {
	err := s.await(ctx)
	var id uint16
	ok := false
	if err == nil {
		id, ok = s.add(t)
	}
	s.reserved.Add(-1) // before the answer can come
	if err != nil {
		t.deliver(delivery{err: err})
		return true
	}
	if !ok {
		return false
	}
	if !t.waits(s, id) {
		s.take(t, id)
		return true
	}
	t.left.Store(true)
	if err := s.write(t, id); err != nil {
		s.fail(err)
	}
	return true
}

// await waits for the connection.
func (s *stream) await(ctx context.Context) error {
	select {
	case <-s.ready:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stream reserves a place on the connection with the fewest queries, or on another one
// that it opens where all are busy and more are allowed.
func (p *peer) stream() *stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = time.Now()
	var s *stream
	least := 0
	for _, open := range p.streams {
		if n := open.count() + int(open.reserved.Load()); s == nil || n < least {
			s, least = open, n
		}
	}
	if s != nil && (least == 0 || len(p.streams) >= maxStreams) {
		s.reserved.Add(1)
		return s
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	s = &stream{peer: p, ready: make(chan struct{}), cancel: cancel}
	s.idle = s.rest
	s.reserved.Add(1)
	p.streams = append(p.streams, s)
	go s.open(ctx)
	return s
}

// open connects, and reads. Whoever waits for the same connection shares its failure.
func (s *stream) open(ctx context.Context) {
	conn, err := s.peer.connect(ctx)
	if err != nil {
		s.err = err
		close(s.ready)
		s.retire()
		return
	}
	s.mu.Lock()
	s.conn = conn
	_ = conn.SetReadDeadline(time.Now().Add(streamIdle))
	if s.retired {
		s.closeNow()
	}
	s.mu.Unlock()
	close(s.ready)
	s.read()
}

// connect opens a connection, and verifies whose it is where TLS says so.
func (p *peer) connect(ctx context.Context) (net.Conn, error) {
	conn, err := p.scope.dial(ctx, "tcp", p.up.addr)
	if err != nil || p.tls == nil {
		return conn, err
	}
	secure := tls.Client(conn, p.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

// add gives a try an ID; false if the connection takes none any more.
func (s *stream) add(t *try) (id uint16, ok bool) {
	id, nth := s.pending.add(t)
	if nth == 0 {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.reused = s.ended > 0
	_ = s.conn.SetReadDeadline(time.Time{}) // the try has its own
	return id, true
}

// rest sets the end of an idle connection, or closes one that is retired.
func (s *stream) rest() {
	if s.retired {
		s.closeNow()
	} else if s.conn != nil {
		_ = s.conn.SetReadDeadline(time.Now().Add(streamIdle))
	}
}

func (s *stream) closeNow() {
	s.cancel()
	if !s.closed && s.conn != nil {
		s.closed = true
		_ = s.conn.Close()
	}
}

// forget gives up on a try. A connection that owes an answer is not trusted with
// another question: it may be dead.
func (s *stream) forget(t *try, id uint16) {
	if s.owes(t, id) {
		s.retire()
		s.take(t, id)
	}
}

// retire lets the connection take no more queries.
func (s *stream) retire() {
	s.peer.mu.Lock()
	if i := slices.Index(s.peer.streams, s); i >= 0 {
		s.peer.streams = slices.Delete(s.peer.streams, i, i+1)
	}
	s.peer.mu.Unlock()
	s.pending.retire()
}

// close closes now, whoever waits.
func (s *stream) close() { s.fail(net.ErrClosed) }

// fail ends the connection. A query that went over one that had served before may
// have crossed the server's idle close, and is asked once more (RFC 7766 section
// 6.2.4).
func (s *stream) fail(err error) {
	s.retire()
	for _, t := range s.abort() {
		t.interrupted(err)
	}
}

func (s *stream) write(t *try, id uint16) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(streamIdle))
	return writeFrame(s.conn, outgoing(nil, t.req, id, t.opt))
}

// read hands out answers until the connection ends.
func (s *stream) read() {
	r := bufio.NewReader(s.conn)
	for {
		wire, err := readFrame(r)
		if err != nil && s.isBusy(err) {
			continue
		}
		if err != nil {
			s.fail(readError(err))
			return
		}
		s.receive(wire)
	}
}

// isBusy reports that the idle time ended just when somebody asked again.
func (s *stream) isBusy(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Is(err, os.ErrDeadlineExceeded) && len(s.tries) > 0
}

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errClosed
	}
	return err
}

// receive finds the try that a message answers.
func (s *stream) receive(wire []byte) {
	if t, reply, err := s.match(new(message), wire); t != nil {
		t.deliver(delivery{reply: reply, err: err})
	}
}
