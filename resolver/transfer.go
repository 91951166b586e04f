// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// isTransfer reports the types whose answer may be many messages.
func isTransfer(qtype uint16) bool { return qtype == dns.TypeAXFR || qtype == dns.TypeIXFR }

// transfer is what follows the first message of a zone transfer.
type transfer struct {
	conn    net.Conn
	reader  *bufio.Reader
	req     *Request
	id      uint16
	seen    serials
	done    func()
	onClose func()
}

// transfer asks for a zone and relays it message by message (RFC 5936 section 3):
// dnsteer holds one message at a time, and a slow client slows the server down.
func (f *forwarder) transfer(ctx context.Context, req *Request, ups []Upstream) (*Response, error) {
	var words []string
	for _, up := range ups {
		start := time.Now()
		t, first, err := f.openTransfer(ctx, up, req)
		if err != nil {
			words = append(words, fmt.Sprintf("upstream %s: %s", up, reason(err)))
			continue
		}
		a := attempt{upstream: req.scope.peerOf(up), network: "tcp", reply: first, took: time.Since(start)}
		res := a.response()
		if t.seen.next(first) {
			t.Close()
			return res, nil
		}
		res.rest = t
		return res, nil
	}
	return nil, &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeNetworkError, text: strings.Join(words, "; ")}
}

func (f *forwarder) openTransfer(ctx context.Context, up Upstream, req *Request) (*transfer, *message, error) {
	if up.transport == overHTTPS {
		return nil, nil, errors.New("zone transfers do not pass HTTPS")
	}
	dialCtx, cancel := context.WithTimeout(ctx, req.scope.settings.Load().pace.timeout/2)
	defer cancel()
	conn, err := req.scope.peerOf(up).connect(dialCtx)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	t := &transfer{conn: conn, reader: bufio.NewReader(conn), req: req, id: newID(), seen: newSerials(req),
		done: func() { stop(); _ = conn.Close() }}
	_ = conn.SetDeadline(time.Now().Add(req.scope.settings.Load().pace.timeout))
	if err := writeFrame(conn, outgoing(nil, req, t.id, req.edns)); err != nil {
		t.done()
		return nil, nil, err
	}
	first, err := readReply(t.reader, req, t.id)
	if err != nil {
		t.done()
		return nil, nil, err
	}
	return t, first, nil
}

// next returns the next message, io.EOF behind the last. Any other error means
// that the zone is not whole, which a client can only be told by a closed
// connection.
func (t *transfer) next() (*message, error) {
	if t.seen.over {
		return nil, io.EOF
	}
	_ = t.conn.SetDeadline(time.Now().Add(tcpIdle))
	wire, err := readFrame(t.reader)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // io.EOF is our word for a whole zone
	}
	if err != nil {
		return nil, fmt.Errorf("zone transfer broke off: %w", err)
	}
	m, err := parseMessage(wire)
	if err != nil {
		return nil, fmt.Errorf("zone transfer: %w", err)
	}
	// Later messages may come without a question (RFC 5936 section 2.2.1).
	if m.id() != t.id || !m.isResponse() || m.count(countQD) > 0 && !sameFold(m.questions(), t.req.msg.questions()) {
		return nil, errors.New("zone transfer: message of another answer")
	}
	t.seen.next(m)
	return m, nil
}

// Close ends the transfer, whole or not.
func (t *transfer) Close() {
	t.done()
	if t.onClose != nil {
		t.onClose()
	}
}

// serials finds the end of a zone transfer by its SOA records.
type serials struct {
	ixfr   bool
	client uint32 // the serial that the client has
	first  uint32
	count  int // SOA records with the first serial
	total  int // records
	delta  bool
	over   bool
}

func newSerials(req *Request) serials {
	s := serials{ixfr: req.msg.qtype == dns.TypeIXFR}
	for _, r := range req.msg.records {
		if r.section == inAuthority && r.typ == dns.TypeSOA {
			s.client = soaSerial(req.msg, r)
		}
	}
	return s
}

// next reads a message and reports whether it is the last: an error, a second SOA
// of the first serial (RFC 5936 section 2.2), a third one in a transfer of
// differences (RFC 1995 section 4), or a lone one that says "you are up to date", or ahead
// (section 2).
func (s *serials) next(m *message) bool {
	if m.rcode() != dns.RcodeSuccess {
		s.over = true
	}
	for _, r := range m.records {
		if r.section == inAnswer {
			s.record(m, r)
		}
	}
	if s.total == 0 || s.ixfr && s.total == 1 && int32(s.first-s.client) <= 0 {
		s.over = true
	}
	return s.over
}

func (s *serials) record(m *message, r record) {
	s.total++
	if r.typ != dns.TypeSOA {
		return
	}
	serial := soaSerial(m, r)
	switch {
	case s.total == 1:
		s.first = serial
	case s.total == 2 && s.ixfr && serial != s.first:
		s.delta = true
	}
	if serial == s.first {
		s.count++
	}
	s.over = s.over || s.count == 3 || s.count == 2 && !s.delta
}

// soaSerial is the first of the five numbers at the end of the RDATA.
func soaSerial(m *message, r record) uint32 {
	if r.end-r.data < 20 {
		return 0
	}
	return binary.BigEndian.Uint32(m.wire[r.end-20:])
}
