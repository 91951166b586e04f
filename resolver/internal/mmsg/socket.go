// SPDX-License-Identifier: Apache-2.0

package mmsg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Socket is a UDP socket with the local address of each datagram: the one it is bound
// to or, on a wildcard address, what IP_PKTINFO says. One goroutine reads; any may send.
type Socket struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	v6   bool
	// connected sockets hear one peer, of whom the kernel need not tell.
	connected bool
	bound     netip.Addr // unmapped; invalid on a wildcard address
	lost      func(error)

	batch *Batch // nil while we wait
	errno unix.Errno
	take  func(*Batch) // of Serve, nil for Read
	// lone says that the last datagram came alone, as most do where little is asked. Then
	// the next one has its answer, by the calls that are made for one, before anybody looks
	// for a second.
	lone bool
	// The closure is made once: it would be allocated with each call.
	readable func(fd uintptr) bool
}

// New sets a socket up. The connection stays the caller's, who closes it. What an
// [Outbox] could not send is told to lost, by whoever flushes it.
func New(conn *net.UDPConn, lost func(error)) (*Socket, error) {
	local := conn.LocalAddr()
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("set up %s: %w", local, err)
	}
	s := &Socket{conn: conn, raw: raw, connected: conn.RemoteAddr() != nil, lost: lost}
	if addr := local.(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone(""); !addr.IsUnspecified() {
		s.bound = addr
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) { optErr = s.enable(int(fd)) }); err != nil {
		return nil, fmt.Errorf("set up %s: %w", local, err)
	}
	if optErr != nil {
		return nil, fmt.Errorf("ask for packet information on %s: %w", local, optErr)
	}
	s.readable = s.receive
	return s, nil
}

// enable asks for packet information where it says something new: it costs a tenth of
// an answer.
func (s *Socket) enable(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	s.v6 = domain == unix.AF_INET6
	if s.bound.IsValid() {
		return nil
	}
	if s.v6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// Conn is the connection that New was given.
func (s *Socket) Conn() *net.UDPConn { return s.conn }

// Serve hands what arrives to take, a batch at a time, until the socket fails, is closed, or
// has a read deadline that passes. An error is the socket's, as net has them, or the system
// call's. A batch is good for the call. Close waits for take to return, so take must not
// call it, nor wait for whoever does.
func (s *Socket) Serve(take func(*Batch)) error {
	s.take = take
	err := s.wait()
	for err == nil {
		err = s.wait()
	}
	s.take, s.lone = nil, false
	return err
}

// Read waits for datagrams and returns one batch. That of the call before is no longer
// good. Errors are those of Serve.
func (s *Socket) Read() (*Batch, error) {
	if s.batch != nil {
		s.batch.rewind()
	}
	if err := s.wait(); err != nil {
		return nil, err
	}
	return s.batch, nil
}

func (s *Socket) wait() error {
	err := s.raw.Read(s.readable)
	switch {
	case err != nil:
		s.Release()
	case s.errno != 0:
		err = s.errno
	}
	return err
}

// receive is called when there may be something to read, and waits until there is more
// where it returns false. The memory is for others meanwhile.
func (s *Socket) receive(fd uintptr) bool {
	if s.batch == nil {
		s.batch = pool.Get().(*Batch)
		s.batch.lend(s)
	}
	taken := 0
	if s.lone {
		if s.errno = recvfrom(fd, &s.batch.headers[0]); s.errno != 0 {
			s.Release()
			return s.errno != unix.EAGAIN
		}
		s.batch.n = 1
		s.take(s.batch)
		s.batch.rewind()
		taken = 1
	}
	var n int
	n, s.errno = recvmmsg(fd, s.batch.headers[:])
	// Without a local address of its own a socket needs the control messages.
	s.lone = taken+max(n, 0) == 1 && s.take != nil && s.bound.IsValid()
	if s.errno != 0 {
		s.Release()
		return s.errno != unix.EAGAIN
	}
	s.batch.n = n
	if s.take == nil {
		return true
	}
	s.take(s.batch)
	if n == Size {
		s.batch.rewind()
		return true // there may be more
	}
	// There was no more, and whatever came since has woken us already: no need to ask.
	s.Release()
	return false
}

// Release gives the memory back until the next Read.
func (s *Socket) Release() {
	if s.batch == nil {
		return
	}
	s.batch.rewind()
	s.batch.socket = nil
	pool.Put(s.batch)
	s.batch = nil
}

// WriteTo sends one datagram from a local address to a client, at any time and from any
// goroutine.
func (s *Socket) WriteTo(wire []byte, local netip.Addr, client netip.AddrPort) error {
	if !client.IsValid() {
		return errors.New("no address to send to")
	}
	var from []byte
	if !s.bound.IsValid() {
		from = s.AppendSource(nil, local)
	}
	_, _, err := s.conn.WriteMsgUDPAddrPort(wire, from, client)
	return err
}
