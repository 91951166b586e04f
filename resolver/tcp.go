// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// serveTCP accepts until v.reading ends.
func (v *serving) serveTCP(l *net.TCPListener) error {
	if err := boundBuffers(l); err != nil {
		return fmt.Errorf("set up %s: %w", l.Addr(), err)
	}
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			if v.reading.Err() != nil {
				return nil
			}
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) || isPassing(err) {
				v.log.Warn("connection not accepted", "listener", l.Addr(), "err", err)
				v.pause()
				continue
			}
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		local := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
		if !v.isServed(local) {
			_ = conn.Close()
			continue
		}
		c := &tcpConn{serving: v, conn: conn, local: local, client: conn.RemoteAddr().(*net.TCPAddr).AddrPort()}
		c.last.Store(time.Now().UnixNano())
		if !v.conns.add(c) {
			_ = conn.Close()
			continue
		}
		v.metrics.connections.Add(1)
		v.queries.Go(c.serve)
	}
}

// pause gives descriptors time to come free: without it the loop would spin.
func (v *serving) pause() {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-v.reading.Done():
	}
}

// tcpConn is one client's connection: queries are read one after the other and
// answered as the answers come (RFC 7766 sections 6.2.1.1 and 7).
type tcpConn struct {
	*serving
	conn   net.Conn
	local  netip.Addr
	client netip.AddrPort

	writing sync.Mutex
	pending sync.WaitGroup
	asked   atomic.Bool  // anything
	waiting atomic.Int32 // queries without an answer yet
	last    atomic.Int64 // when the last answer left, in Unix nanoseconds

	owed    atomic.Int64 // what answers cost that wait for the client
	took    atomic.Int64 // when the client last took one, or one began to wait
	givenUp atomic.Bool
}

// serve reads until the client or Serve ends, answers what it has read, and closes.
func (c *tcpConn) serve() {
	defer c.metrics.connections.Add(-1)
	defer c.conns.remove(c)
	defer func() { _ = c.conn.Close() }()
	defer c.pending.Wait()
	// A query that was read is answered even if the client has closed its half.
	defer context.AfterFunc(c.reading, c.setLastDeadline)()
	room := make(chan struct{}, maxPipelined)
	r := bufio.NewReader(c.conn)
	path := c.newWirePath()
	var wire, ready []byte
	// A client that does not read what is ready is not read from.
	flush := func() bool {
		err := c.writeReady(ready)
		ready = ready[:0]
		path.end()
		return err == nil
	}
	for {
		if (len(ready) >= readyMost || !hasFrame(r)) && !flush() {
			return
		}
		if !hasFrame(r) {
			wire, ready = spare(wire), spare(ready)
			if !c.awaitFrame(r) {
				return
			}
		}
		var err error
		wire, err = appendFrame(wire[:0], r)
		if err != nil || len(wire) < headerLen {
			flush()
			return // no ID to answer, and no trust in the lengths that follow
		}
		if len(ready) == 0 {
			path.begin(time.Now())
		}
		if more := path.answer(ready, wire, c.local, true); more != nil {
			ready = more
			if c.queryLog != nil {
				path.log(c.client, c.local, true)
			}
			continue
		}
		if !flush() { // before anything that may have to wait
			return
		}
		room <- struct{}{}
		c.waiting.Add(1)
		c.spawn(packet{wire: bytes.Clone(wire), client: c.client, local: c.local, tcp: true, read: path.read, counters: path.counters}, func() { <-room })
	}
}

// readyMost bounds the answers that are written at once. What is ready for the queries
// of one read goes with one write: on a connection that is used well the calls are what
// costs.
const readyMost = 16 << 10

// spare is a buffer to go on with after a wait, which a large one would outlast for nothing.
func spare(buf []byte) []byte {
	if cap(buf) > 2*readyMost {
		return nil
	}
	return buf[:0]
}

// hasFrame tells whether a whole message can be read without a wait.
func hasFrame(r *bufio.Reader) bool {
	if r.Buffered() < 2 {
		return false
	}
	length, _ := r.Peek(2) // is there
	return r.Buffered() >= 2+int(binary.BigEndian.Uint16(length))
}

// awaitFrame waits for the first octet of the next message, and sets the time for
// the rest. It is patient as long as answers are due, and idle time counts from the
// last of them.
func (c *tcpConn) awaitFrame(r *bufio.Reader) bool {
	for {
		due := time.Unix(0, c.last.Load()).Add(tcpIdle)
		if c.waiting.Load() > 0 {
			due = time.Now().Add(tcpIdle)
		} else if !time.Now().Before(due) {
			return false
		}
		c.setReadDeadline(due)
		_, err := r.Peek(1)
		if err == nil {
			c.asked.Store(true)
			c.setReadDeadline(time.Now().Add(tcpIdle))
			return true
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || c.reading.Err() != nil {
			return false
		}
	}
}

// setReadDeadline keeps the short deadline of the end, which may come between.
func (c *tcpConn) setReadDeadline(t time.Time) {
	_ = c.conn.SetReadDeadline(t)
	if c.reading.Err() != nil {
		c.setLastDeadline()
	}
}

// setLastDeadline is for when Serve ends.
func (c *tcpConn) setLastDeadline() {
	left := grace
	if !c.asked.Load() {
		left = firstGrace
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(left))
}

// spawn waits for a turn and answers in a goroutine. The turn ends before the
// first write: a client that does not read holds up nobody else.
func (c *tcpConn) spawn(in packet, done func()) {
	c.turns <- struct{}{}
	c.pending.Go(func() {
		defer done()
		defer func() {
			c.last.Store(time.Now().UnixNano())
			c.waiting.Add(-1)
		}()
		release := sync.OnceFunc(func() { <-c.turns })
		defer release()
		err := c.answer(c.work, in, func(wire []byte) error {
			release()
			return c.write(wire)
		})
		if err != nil {
			_ = c.conn.Close() // half an answer must not look like a whole one
		}
	})
}

// write is where TCP answers leave, one at a time.
func (c *tcpConn) write(wire []byte) error {
	c.owe(len(wire))
	defer c.paid(len(wire))
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(tcpIdle))
	return c.judge(writeFrame(c.conn, wire))
}

// writeReady writes answers with their lengths in front, if there are any.
func (c *tcpConn) writeReady(frames []byte) error {
	if len(frames) == 0 {
		return nil
	}
	c.owe(len(frames))
	defer c.paid(len(frames))
	c.writing.Lock()
	defer c.writing.Unlock()
	now := time.Now()
	_ = c.conn.SetWriteDeadline(now.Add(tcpIdle))
	_, err := c.conn.Write(frames)
	c.last.Store(now.UnixNano())
	return c.judge(err)
}

// judge gives up a client that has not read for too long, and counts what it does not get.
func (c *tcpConn) judge(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.giveUp()
	}
	if err != nil && c.givenUp.Load() {
		c.metrics.unsent.Add(1)
	}
	return err
}

// connSet is the connections of one Serve.
type connSet struct {
	limit int
	owed  atomic.Int64 // by all of them

	mu    sync.Mutex // guards conns
	conns map[*tcpConn]struct{}
}

// add takes a connection, or refuses it when there are too many already and none
// that is idle could make room.
func (s *connSet) add(c *tcpConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.limit && !s.evict() {
		return false
	}
	if s.conns == nil {
		s.conns = make(map[*tcpConn]struct{})
	}
	s.conns[c] = struct{}{}
	return true
}

// evict closes the connection that has been idle longest (RFC 7766 section 6.2.3
// lets a server do so when it needs to).
func (s *connSet) evict() bool {
	var oldest *tcpConn
	for c := range s.conns {
		if c.waiting.Load() == 0 && (oldest == nil || c.last.Load() < oldest.last.Load()) {
			oldest = c
		}
	}
	if oldest == nil {
		return false
	}
	_ = oldest.conn.Close()
	delete(s.conns, oldest)
	return true
}

func (s *connSet) remove(c *tcpConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *connSet) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.conn.Close()
	}
}
