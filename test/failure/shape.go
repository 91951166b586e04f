// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/miekg/dns"
)

// Shape is how a client uses its sockets.
type Shape string

const (
	// Unconnected asks with sendto and recvfrom on one socket.
	Unconnected Shape = "unconnected"
	// PerQuery makes a socket for each query, and connects it.
	PerQuery Shape = "per-query"
	// Connected connects one socket and asks with it as long as it lives.
	Connected Shape = "connected"
	// TCP makes a connection for each query.
	TCP Shape = "tcp"
)

// client asks one server with sockets of one shape. It is for one goroutine.
type client struct {
	shape  Shape
	server netip.AddrPort
	conn   *net.UDPConn // of a shape that keeps it
	id     uint16
}

// ask puts one question and returns the address in the answer.
func (c *client) ask(name string, timeout time.Duration) (netip.Addr, error) {
	c.id++
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	m.Id = c.id
	m.SetEdns0(dns.DefaultMsgSize, false) // so that a failure can be told in words
	packet, err := m.Pack()
	if err != nil {
		return netip.Addr{}, err
	}
	deadline := time.Now().Add(timeout)
	reply, err := c.exchange(packet, deadline)
	if err != nil {
		return netip.Addr{}, err
	}
	return addressIn(reply)
}

func (c *client) exchange(packet []byte, deadline time.Time) (*dns.Msg, error) {
	if c.shape == TCP {
		return c.exchangeTCP(packet, deadline)
	}
	conn, err := c.open()
	if err != nil {
		return nil, err
	}
	if c.shape == PerQuery {
		defer conn.Close()
	} else {
		c.conn = conn
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if c.shape == Unconnected {
		_, err = conn.WriteToUDPAddrPort(packet, c.server)
	} else {
		_, err = conn.Write(packet)
	}
	if err != nil {
		return nil, err
	}
	return c.receive(conn)
}

func (c *client) open() (*net.UDPConn, error) {
	if c.conn != nil {
		return c.conn, nil
	}
	network := "udp4"
	if c.server.Addr().Is6() {
		network = "udp6"
	}
	if c.shape == Unconnected {
		return net.ListenUDP(network, nil)
	}
	return net.DialUDP(network, nil, net.UDPAddrFromAddrPort(c.server))
}

// receive returns the reply to the last question: one to an earlier question, that
// was given up, may come first. A reply from anybody but the server is an error.
func (c *client) receive(conn *net.UDPConn) (*dns.Msg, error) {
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return nil, err
		}
		if from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); from != c.server {
			return nil, fmt.Errorf("reply from %s, asked %s", from, c.server)
		}
		m := new(dns.Msg)
		if err := m.Unpack(buf[:n]); err != nil {
			return nil, err
		}
		if m.Id == c.id {
			return m, nil
		}
	}
}

func (c *client) exchangeTCP(packet []byte, deadline time.Time) (*dns.Msg, error) {
	conn, err := (&net.Dialer{Deadline: deadline}).Dial("tcp", c.server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)
	if _, err := conn.Write(frame); err != nil {
		return nil, err
	}
	length := make([]byte, 2)
	if _, err := io.ReadFull(conn, length); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	return m, m.Unpack(buf)
}

func addressIn(m *dns.Msg) (netip.Addr, error) {
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			addr, _ := netip.AddrFromSlice(a.A.To4())
			return addr, nil
		}
	}
	err := fmt.Errorf("answer without address: %s", dns.RcodeToString[m.Rcode])
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			err = fmt.Errorf("%w, %s", err, o) // an extended error, RFC 8914
		}
	}
	return netip.Addr{}, err
}

// timedOut is how a query without an answer is reported.
const timedOut = "timed out"

func describe(err error) string {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return timedOut
	}
	return err.Error()
}
