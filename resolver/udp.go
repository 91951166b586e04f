// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/resolver/internal/mmsg"
)

// newUDPSocket gives a listener the receive buffer for bursts. What cannot be sent is told
// to lost.
func newUDPSocket(conn *net.UDPConn, lost func(error)) (*mmsg.Socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("set up %s: %w", conn.LocalAddr(), err)
	}
	if err := raw.Control(func(fd uintptr) { growBuffer(int(fd)) }); err != nil {
		return nil, fmt.Errorf("set up %s: %w", conn.LocalAddr(), err)
	}
	return mmsg.New(conn, lost)
}

// growBuffer makes the receive buffer large, and never smaller: whoever opened the
// socket may have had the privilege to go beyond net.core.rmem_max, and we may not.
// A smaller buffer loses bursts but serves.
func growBuffer(fd int) {
	have, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF) // twice what was set
	if err != nil || have >= 2*receiveBuffer || unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) == nil {
		return
	}
	probe, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(probe)
	_ = unix.SetsockoptInt(probe, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	allowed, _ := unix.GetsockoptInt(probe, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if have < allowed {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
}

// udpLoop is what the loop of one socket uses again and again.
type udpLoop struct {
	*serving
	socket  *mmsg.Socket
	path    *wirePath
	long    []int       // datagrams of the batch that go the long way
	replies mmsg.Outbox // to clients
	queries mmsg.Outbox // to upstreams
	heading
}

func (v *serving) newUDPLoop(u *mmsg.Socket) *udpLoop {
	return &udpLoop{serving: v, socket: u, path: v.newWirePath()}
}

// serveUDP reads until v.reading ends.
func (v *serving) serveUDP(u *mmsg.Socket) error {
	l := v.newUDPLoop(u)
	for {
		err := u.Serve(l.take)
		if isPassing(err) {
			continue
		}
		if v.reading.Err() != nil && (errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed)) {
			return nil
		}
		return fmt.Errorf("read from %s: %w", u.Conn().LocalAddr(), err)
	}
}

// take takes a batch of datagrams. What needs neither a message nor a goroutine is
// answered between reading and a turn: the ping, and what is ready.
func (l *udpLoop) take(b *mmsg.Batch) {
	l.long, l.heading = l.long[:0], heading{}
	l.path.begin(time.Now())
	l.path.warm(b.Len(), b.Datagram)
	for i := range b.Len() {
		if !l.answerReady(b, i) {
			l.long = append(l.long, i)
		}
	}
	// Before anything that may have to wait for a turn.
	l.replies.Flush()
	l.path.end()
	l.queries.Flush()
	for _, i := range l.long {
		l.spawnUDP(l.socket, l.packet(b, i))
	}
}

// answerReady queues the reply to a datagram, if one is ready or none is due.
func (l *udpLoop) answerReady(b *mmsg.Batch, i int) bool {
	wire, local := b.Datagram(i), b.Local(i)
	if !local.IsValid() || !l.isServed(local) {
		return true
	}
	if pong := pong(wire); pong != nil {
		l.replies.Reply(l.socket, append(l.replies.Buffer(), pong...), 0, local, b.From(i))
		return true
	}
	reply := l.path.answer(l.replies.Buffer(), wire, local, false)
	if reply == nil {
		return l.path.missed && l.depart(b, i)
	}
	l.replies.Reply(l.socket, reply, 2, local, b.From(i))
	if l.queryLog != nil {
		l.path.log(b.Client(i), local, false)
	}
	return true
}

// packet is a copy of a datagram that outlives the batch.
func (l *udpLoop) packet(b *mmsg.Batch, i int) packet {
	return packet{wire: bytes.Clone(b.Datagram(i)), client: b.Client(i), local: b.Local(i), read: l.path.read, counters: l.path.counters}
}

// spawnUDP waits for a turn and answers in a goroutine.
func (v *serving) spawnUDP(u *mmsg.Socket, in packet) {
	v.turns <- struct{}{}
	v.queries.Go(func() {
		defer func() { <-v.turns }()
		_ = v.answer(v.work, in, func(wire []byte) error {
			if err := u.WriteTo(wire, in.local, in.client); err != nil {
				v.notSent(u.Conn(), err)
			}
			return nil
		})
	})
}

// notSent tells of an answer that the kernel did not take. It is lost, as datagrams
// are.
func (sc *Scope) notSent(u *net.UDPConn, err error) {
	sc.server.metrics.unsent.Add(1)
	sc.log.Debug("answer not sent", "listener", u.LocalAddr(), "err", err)
}

// isPassing reports errors that say nothing about the socket itself: an ICMP
// message about an earlier answer, or a moment without memory.
func isPassing(err error) bool {
	for _, errno := range []syscall.Errno{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENOBUFS, unix.ENOMEM, unix.EAGAIN, unix.EINTR} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
