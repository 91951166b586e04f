// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// errMalformed says that an upstream answered the question with something that is
// no DNS message.
var errMalformed = errors.New("malformed answer")

// withQuestion puts the question into a refusal that came without, so that the
// client can match it.
func (m *message) withQuestion(req *Request) *message {
	if m.count(countQD) > 0 || m.opcode() != dns.OpcodeQuery || req.msg.signed {
		return m
	}
	wire := append([]byte(nil), m.wire[:headerLen]...)
	wire = append(wire, req.msg.questions()...)
	setCount(wire, countQD, 1)
	for _, at := range []int{countAN, countNS, countAR} {
		setCount(wire, at, 0)
	}
	out := &message{wire: wire, question: len(wire), name: req.msg.name, qtype: req.msg.qtype, qclass: req.msg.qclass, opt: -1}
	if opt, err := m.edns(); err == nil && opt != nil {
		out.addOPT(opt)
	}
	return out
}

// outgoing is the request as it goes to an upstream, in memory that is empty: an ID of
// this hop, our payload size, no options that were meant for us. A signed message keeps
// all but its ID.
func outgoing(wire []byte, req *Request, id uint16, opt *edns) []byte {
	if req.msg.signed || req.verbatim {
		wire = append(wire, req.msg.wire...)
		setID(wire, id)
		return wire
	}
	wire = req.msg.appendWithoutOPT(wire)
	setID(wire, id)
	if opt == nil {
		return wire
	}
	hop := edns{size: udpSize, version: opt.version, flags: opt.flags, options: opt.onward()}
	if opt.padded {
		hop.pad(len(wire))
	}
	wire = hop.appendTo(wire)
	setCount(wire, countAR, int(binary.BigEndian.Uint16(wire[countAR:]))+1)
	return wire
}

// newID is unpredictable (RFC 5452 section 9.2). crypto/rand does not fail.
func newID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:])
	return binary.BigEndian.Uint16(b[:])
}

// isReply reports whether m answers req under id: a response, the same operation,
// the same question. Servers that refuse may leave the question out, and an UPDATE
// is answered without (RFC 2136 section 3.8).
func isReply(m *message, req *Request, id uint16) bool {
	if m.id() != id || !m.isResponse() || m.opcode() != req.msg.opcode() {
		return false
	}
	if m.count(countQD) == 0 {
		rcode := int(m.flags() & 0xf)
		return m.opcode() != dns.OpcodeQuery || rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError
	}
	return sameFold(m.questions(), req.msg.questions())
}

// dial opens a socket of its own for one query: connected, so that the kernel
// checks the source, and with a port that the kernel chose at random. The socket
// wakes when ctx ends.
func dial(ctx context.Context, network string, up netip.AddrPort, req *Request) (net.Conn, func(), error) {
	conn, err := req.dialer()(ctx, network, up)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return conn, func() {
		stop()
		_ = conn.Close()
	}, nil
}

// dialer opens the sockets for a request: those of its scope.
func (r *Request) dialer() Dialer {
	if r.scope != nil {
		return r.scope.dial
	}
	return dialHere
}

// dialHere is the Dialer for the network namespace of the process.
func dialHere(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, server.String())
}

// buffers are for datagrams: a server that ignores our size must not lose its
// answer, and 64 kB for each query would be much.
var buffers = sync.Pool{New: func() any { return new([maxWire]byte) }}

func askUDP(ctx context.Context, up netip.AddrPort, req *Request, opt *edns) (*message, error) {
	conn, done, err := dial(ctx, "udp", up, req)
	if err != nil {
		return nil, err
	}
	defer done()
	id := newID()
	if _, err := conn.Write(outgoing(nil, req, id, opt)); err != nil {
		return nil, err
	}
	buf := buffers.Get().(*[maxWire]byte)
	defer buffers.Put(buf)
	for {
		n, err := conn.Read(buf[:])
		if err != nil {
			return nil, err
		}
		// What does not match is noise or an attack: go on listening.
		head, err := parseQuestion(buf[:n])
		if err != nil || !isReply(head, req, id) {
			continue
		}
		reply, err := parseMessage(append([]byte(nil), buf[:n]...))
		if err != nil && head.isTruncated() {
			return head.headOnly(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %v", errMalformed, err)
		}
		return reply, nil
	}
}

// headOnly is a copy of a message up to its question, without the records.
func (m *message) headOnly() *message {
	short := *m
	short.wire = append([]byte(nil), m.wire[:m.question]...)
	for _, at := range []int{countAN, countNS, countAR} {
		setCount(short.wire, at, 0)
	}
	short.records, short.opt, short.signed = nil, -1, false
	return &short
}

func askTCP(ctx context.Context, up netip.AddrPort, req *Request, opt *edns) (*message, error) {
	conn, done, err := dial(ctx, "tcp", up, req)
	if err != nil {
		return nil, err
	}
	defer done()
	id := newID()
	if err := writeFrame(conn, outgoing(nil, req, id, opt)); err != nil {
		return nil, err
	}
	return readReply(bufio.NewReader(conn), req, id)
}

// readReply reads frames until one answers the request.
func readReply(r io.Reader, req *Request, id uint16) (*message, error) {
	for {
		wire, err := readFrame(r)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("closed the connection without an answer")
		}
		if err != nil {
			return nil, err
		}
		head, err := parseQuestion(wire)
		if err != nil || !isReply(head, req, id) {
			continue
		}
		reply, err := parseMessage(wire)
		if err != nil {
			return nil, fmt.Errorf("%w: %v", errMalformed, err)
		}
		return reply, nil
	}
}

// readFrame reads one message with its length in front (RFC 1035 section 4.2.2).
// io.EOF means that none has begun.
func readFrame(r io.Reader) ([]byte, error) { return appendFrame(nil, r) }

// frameStep is how much memory a message has at first, which most do not need.
const frameStep = 4096

// appendFrame is readFrame into a buffer that may be used again. It grows with what has
// come: a length in front, which costs nothing to send, takes no 64 kB.
func appendFrame(buf []byte, r io.Reader) ([]byte, error) {
	buf = slices.Grow(buf, 2)
	length := buf[len(buf) : len(buf)+2]
	if _, err := io.ReadFull(r, length); err != nil {
		return nil, err
	}
	for n := int(binary.BigEndian.Uint16(length)); n > 0; {
		from, part := len(buf), min(n, max(frameStep, cap(buf)-len(buf)))
		buf = slices.Grow(buf, part)[:from+part]
		if _, err := io.ReadFull(r, buf[from:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		n -= part
	}
	return buf, nil
}

// writeFrame writes length and message in one call, hence in one segment if it can
// be (RFC 7766 section 8).
func writeFrame(w io.Writer, wire []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(wire)), uint16(len(wire))), wire...))
	return err
}
