// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

const giantData = 60_000

// giant answers a query with one large record.
func giant(query []byte) []byte {
	m := slices.Grow(slices.Clone(query), giantData+12)
	m[2], m[3] = m[2]|0x84, m[3]|0x80
	m = append(m, 0xc0, headerLen, 0xff, 0x00, 0, 1, 0, 0, 0, 5) // TYPE65280
	m = binary.BigEndian.AppendUint16(m, giantData)
	m = append(m, make([]byte, giantData)...)
	setCount(m, countAN, 1)
	return m
}

// giants is a server that gives large answers, and tells of each query.
func giants(t *testing.T, asked func()) netip.AddrPort {
	return streamServer(t, func(conn net.Conn, _ int) {
		_ = conn.SetDeadline(time.Now().Add(4 * patience))
		for {
			wire, err := readFrame(conn)
			if err != nil {
				return
			}
			asked()
			if writeFrame(conn, giant(wire)) != nil {
				return
			}
		}
	})
}

// hogs are clients that ask for giants on many connections, as often as each takes
// queries, and read nothing.
func hogs(t *testing.T, addr netip.AddrPort, n int) {
	for i := range n {
		conn := connect(t, "tcp", addr)
		_ = conn.(*net.TCPConn).SetReadBuffer(4096)
		for j := range maxPipelined {
			if writeFrame(conn, pack(t, query(fmt.Sprintf("h%d.n%d.example.org", i, j), dns.TypeTXT))) != nil {
				break // it was closed already
			}
		}
	}
}

// Clients that ask for large answers and read none of them do not take more memory than
// is meant for them, whatever number of connections they have; and those that read, however
// much and on however few connections, lose nothing meanwhile (RFC 9210 section 5.1).
func TestSlowReadersAreBounded(t *testing.T) {
	const lazy, most = 50, owedMost / 2 // they ask for 96 MB, and 13 for goroutines
	var s *Server
	var asked, peak atomic.Int64
	before := memory()
	up := giants(t, func() {
		asked.Add(1)
		peak.Store(max(peak.Load(), s.owed.Load())) // nearly
	})
	cfg := Config{Upstreams: []netip.AddrPort{up}, CacheBytes: -1, Timeout: patience, Resend: patience}
	s, addr, _ := startAborting(t, cfg)
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	hogs(t, addr, lazy)
	testenv.Eventually(t, 2*patience, func() error {
		if n := s.metrics.unsent.Load(); n == 0 {
			return fmt.Errorf("%d octets are owed after %d queries, and nobody has paid", s.owed.Load(), asked.Load())
		}
		if n := s.forwards.taken.Load(); n > 0 || s.owed.Load() > most {
			return fmt.Errorf("%d queries wait, and %d octets are owed", n, s.owed.Load())
		}
		return nil
	})
	inUse := memory() - before
	t.Logf("owed at most %d, memory %d, after %d queries, %d answers not sent", peak.Load(), inUse, asked.Load(), s.metrics.unsent.Load())
	// Those that were told to end need a moment.
	if got := peak.Load(); got > 4*most {
		t.Errorf("%d octets were owed, want %d at most", got, most)
	}
	if inUse > 3*most {
		t.Errorf("%d octets of memory are in use, where answers may owe %d", inUse, most)
	}

	wantServed(t, addr)
	var readers sync.WaitGroup
	for i := range 3 {
		conn := connect(t, "tcp", addr)
		const n = 2 * maxPipelined
		readers.Go(func() {
			for j := range n {
				if err := writeFrame(conn, pack(t, query(fmt.Sprintf("r%d.n%d.example.org", i, j), dns.TypeTXT))); err != nil {
					t.Errorf("query %d of reader %d: %v", j, i, err)
					return
				}
			}
		})
		readers.Go(func() {
			for j := range n {
				if wire, err := readFrame(conn); err != nil || len(wire) < giantData {
					t.Errorf("answer %d of reader %d: %d octets, %v", j, i, len(wire), err)
					return
				}
			}
		})
	}
	readers.Wait()
}

// debtor is a connection whose client has taken nothing since a time.
func debtor(t *testing.T, v *serving, owes int, since int64) *tcpConn {
	t.Helper()
	client, server := net.Pipe()
	t.Cleanup(func() { _ = client.Close() })
	c := &tcpConn{serving: v, conn: server}
	if !v.conns.add(c) {
		t.Fatal("too many connections")
	}
	c.owe(owes - owedEach)
	c.took.Store(since)
	return c
}

// A Serve owes half of all at most, and as much as others leave, so that they never owe
// more than that together; it pays itself, with the connections that have taken nothing for
// longest. Some answers it may owe in any case.
func TestWhoPaysForSlowReaders(t *testing.T) {
	s := before(t, Config{}, nil)
	serves := func() *serving {
		return &serving{Server: s, Scope: s.own, conns: connSet{limit: 1000}}
	}
	first, second, third := serves(), serves(), serves()
	newer := debtor(t, first, owedMost/8, 2)
	oldest := debtor(t, first, owedMost/8, 1)
	newest := debtor(t, first, owedMost/4, 3)
	want := func(when string, ended ...*tcpConn) {
		t.Helper()
		for name, c := range map[string]*tcpConn{"oldest": oldest, "newer": newer, "newest": newest} {
			if got := c.givenUp.Load(); got != slices.Contains(ended, c) {
				t.Errorf("%s: the %s has ended: %t", when, name, got)
			}
		}
	}
	want("half of all")
	last := debtor(t, first, owedMost/16, 4)
	want("more than half", oldest)
	oldest.paid(owedMost/8 - owedEach)

	// The first owes seven sixteenths, nine are left: the second may have half of them.
	others := debtor(t, second, owedMost/4, 1)
	if others.givenUp.Load() {
		t.Error("a second Serve may owe nothing")
	}
	for range 10 {
		debtor(t, second, owedMost/16, 2)
	}
	if !others.givenUp.Load() {
		t.Error("the second Serve owes too much")
	}
	want("the second owes too much", oldest)
	if last.givenUp.Load() {
		t.Error("the first Serve pays for the second")
	}
	// Nothing is left, but some answers.
	debtor(t, third, owedMost, 1)
	some := debtor(t, third, owedLeast, 2)
	if some.givenUp.Load() {
		t.Error("a Serve may owe nothing where others owe all")
	}
}

// A client that does not read ends in a reset: the kernel keeps nothing for it.
func TestSlowReaderIsReset(t *testing.T) {
	l, addr := listen(t, "127.0.0.1")
	defer l.close()
	client := connect(t, "tcp", addr)
	conn, err := l.TCP[0].AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	s := before(t, Config{}, nil)
	c := &tcpConn{serving: &serving{Server: s, Scope: s.own}, conn: conn}
	c.giveUp()
	if _, err := io.Copy(io.Discard, client); err == nil {
		t.Error("the connection ends as if all were well")
	}
}
