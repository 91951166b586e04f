// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// A client that asks over TCP and does not read leaves us with its answers, up to 64 kB for
// each of the queries that its connection may have. So what connections owe is bounded, and
// of a Serve that owes more the connection ends whose client has taken nothing for longest
// (RFC 9210 section 5.1): those that read go on, however much they ask for.
const (
	// owedMost bounds what all owe. A Serve may owe as much as is left then, hence half of it
	// at most, and whoever comes later finds room too.
	owedMost = 32 << 20
	// owedLeast is what a Serve may owe in any case: some answers of any size.
	owedLeast = 256 << 10
	// owedEach is what an answer that waits costs beside its octets, in a goroutine.
	owedEach = 8 << 10
	// sendBuffer is what the kernel takes of the answers of a connection, where it would take
	// some megabytes. Clients are near: more makes nothing faster.
	sendBuffer = 64 << 10
)

// boundBuffers bounds the send buffers of the connections that a listener will accept.
func boundBuffers(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	})
	if err != nil {
		return err
	}
	return failed
}

// owe notes that an answer waits for its client; paid ends that.
func (c *tcpConn) owe(octets int) {
	n := int64(octets + owedEach)
	if c.owed.Load() == 0 {
		c.took.Store(time.Now().UnixNano()) // or a while without queries would count
	}
	c.owed.Add(n)
	left := owedMost - c.server.owed.Add(n)
	if most := max(left, owedLeast); c.conns.owed.Add(n) > most {
		c.conns.relieve(most)
	}
}

func (c *tcpConn) paid(octets int) {
	n := int64(octets + owedEach)
	c.took.Store(time.Now().UnixNano())
	c.owed.Add(-n)
	c.conns.owed.Add(-n)
	c.server.owed.Add(-n)
}

// relieve ends connections until the others owe no more than so much.
func (s *connSet) relieve(most int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var owed int64 // those that end will owe nothing soon
		var slowest *tcpConn
		for c := range s.conns {
			n := c.owed.Load()
			if n == 0 || c.givenUp.Load() {
				continue
			}
			owed += n
			if slowest == nil || c.took.Load() < slowest.took.Load() {
				slowest = c
			}
		}
		if slowest == nil || owed <= most {
			return
		}
		slowest.giveUp()
	}
}

// giveUp ends a connection whose client does not read. What the kernel has of its answers
// goes too: it would keep them for minutes.
func (c *tcpConn) giveUp() {
	if c.givenUp.Swap(true) {
		return
	}
	c.log.Debug("connection closed: its client does not read", "client", c.client)
	if conn, ok := c.conn.(*net.TCPConn); ok {
		_ = conn.SetLinger(0)
	}
	_ = c.conn.Close()
}
