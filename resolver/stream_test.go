// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// streamServer is a nameserver for TCP alone that answers whole connections.
func streamServer(t *testing.T, serve func(conn net.Conn, nth int)) netip.AddrPort {
	t.Helper()
	l, addr := listen(t, "127.0.0.1")
	_ = l.UDP[0].Close()
	var conns sync.WaitGroup
	conns.Go(func() {
		for n := 0; ; n++ {
			conn, err := l.TCP[0].AcceptTCP()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				serve(conn, n)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.TCP[0].Close()
		conns.Wait()
	})
	return addr
}

// answerFrames answers n queries of a connection, or all for a negative number.
func answerFrames(t *testing.T, conn net.Conn, n int) {
	for ; n != 0; n-- {
		wire, err := readFrame(conn)
		if err != nil {
			return
		}
		_ = writeFrame(conn, respond(t, wire, nil, good))
	}
}

// Queries one after the other go over one connection (RFC 7766 section 6.2.1).
func TestConnectionIsReused(t *testing.T) {
	var conns atomic.Int32
	up := streamServer(t, func(conn net.Conn, _ int) {
		conns.Add(1)
		answerFrames(t, conn, -1)
	})
	cfg := quick(up)
	cfg.Resend = patience // a second copy would have a second connection
	_, addr := start(t, cfg)
	for range 10 {
		wantGood(t, exchange(t, "tcp", addr, query("a.example.org", dns.TypeA)))
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// Many at once share few connections, whose answers come in any order (RFC 7766
// section 6.2.1.1).
func TestUpstreamPipelining(t *testing.T) {
	const n = 40
	var conns, arrived atomic.Int32
	all := make(chan struct{})
	up := streamServer(t, func(conn net.Conn, _ int) {
		conns.Add(1)
		var mu sync.Mutex
		var queries [][]byte
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				wire, err := readFrame(conn)
				if err != nil {
					return
				}
				mu.Lock()
				queries = append(queries, wire)
				mu.Unlock()
				if arrived.Add(1) == n {
					close(all)
				}
			}
		}()
		select {
		case <-all:
		case <-ended:
		}
		mu.Lock()
		for _, wire := range slices.Backward(queries) { // the last first
			name := unpack(t, wire).Question[0].Name
			_ = writeFrame(conn, respond(t, wire, nil, name+` 5 IN TXT "`+name+`"`))
		}
		mu.Unlock()
		<-ended
	})
	cfg := quick(up)
	cfg.Resend = patience
	_, addr := start(t, cfg)
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			name := fmt.Sprintf("n%d.example.org.", i)
			got := exchange(t, "tcp", addr, query(name, dns.TypeTXT))
			if len(got.Answer) != 1 || got.Answer[0].(*dns.TXT).Txt[0] != name {
				t.Errorf("%s: %v", name, got)
			}
		})
	}
	clients.Wait()
	if got := conns.Load(); got > maxStreams {
		t.Errorf("%d connections", got)
	}
}

// A server that ends a connection as it pleases loses no query: the next one finds
// another connection, also where it was on its way already (RFC 7766 section 6.2.4).
func TestServerEndsConnections(t *testing.T) {
	for name, end := range map[string]func(conn net.Conn){
		"close":                        func(conn net.Conn) {},
		"reset":                        func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) },
		"half":                         func(conn net.Conn) { _ = conn.(*net.TCPConn).CloseWrite(); _, _ = readFrame(conn) },
		"after reading the next query": func(conn net.Conn) { _, _ = readFrame(conn) },
	} {
		t.Run(name, func(t *testing.T) {
			up := streamServer(t, func(conn net.Conn, nth int) {
				if nth%2 == 1 {
					answerFrames(t, conn, -1)
					return
				}
				answerFrames(t, conn, 1)
				end(conn)
			})
			cfg := quick(up)
			cfg.Resend = patience
			_, addr := start(t, cfg)
			for range 5 {
				wantGood(t, exchange(t, "tcp", addr, query("a.example.org", dns.TypeA)))
			}
		})
	}
}

// Answers that match nothing are ignored on a connection too: RFC 5452 section 9.
func TestMisbehavingStream(t *testing.T) {
	for name, lie := range map[string]func(w []byte) []byte{
		"wrong ID":       func(w []byte) []byte { binary.BigEndian.PutUint16(w, binary.BigEndian.Uint16(w)+1); return w },
		"wrong question": func(w []byte) []byte { w[headerLen+1] = 'z'; return w },
		"garbage":        func([]byte) []byte { return []byte("garbage") },
		"empty":          func([]byte) []byte { return nil },
		"query":          func(w []byte) []byte { w[2] &^= 0x80; return w },
	} {
		t.Run(name, func(t *testing.T) {
			up := streamServer(t, func(conn net.Conn, _ int) {
				wire, err := readFrame(conn)
				if err != nil {
					return
				}
				_ = writeFrame(conn, lie(respond(t, wire, nil, "a.example.org. 5 IN A 203.0.113.66")))
				_ = writeFrame(conn, respond(t, wire, nil, good))
				answerFrames(t, conn, -1)
			})
			_, addr := start(t, quick(up))
			wantGood(t, exchange(t, "tcp", addr, query("a.example.org", dns.TypeA)))
		})
	}
}

// A connection that owes an answer is not trusted with the next question.
func TestSilentConnectionIsLeft(t *testing.T) {
	up := streamServer(t, func(conn net.Conn, nth int) {
		if nth == 0 {
			answerFrames(t, conn, 1)
			_, _ = readFrame(conn) // silent from here on
			_, _ = readFrame(conn)
			return
		}
		answerFrames(t, conn, -1)
	})
	cfg := hasty(up)
	cfg.Resend = patience
	_, addr := start(t, cfg)
	wantGood(t, exchange(t, "tcp", addr, query("a.example.org", dns.TypeA)))
	got := exchange(t, "tcp", addr, withEDNS(query("b.example.org", dns.TypeA), 1232))
	if !strings.HasSuffix(fmtEDE(got), "timed out after 600ms") {
		t.Errorf("got %v", got)
	}
	wantGood(t, exchange(t, "tcp", addr, query("a.example.org", dns.TypeA)))
}

// Idle connections close after a few seconds.
func TestIdleConnectionCloses(t *testing.T) {
	closed := make(chan struct{})
	up := streamServer(t, func(conn net.Conn, _ int) {
		answerFrames(t, conn, -1)
		close(closed)
	})
	s, addr := start(t, quick(up))
	wantGood(t, exchange(t, "tcp", addr, query("a.example.org", dns.TypeA)))
	select {
	case <-closed:
	case <-time.After(streamIdle + patience):
		t.Error("the connection is still open")
	}
	testenv.Eventually(t, patience, func() error {
		p := s.own.peer(up)
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.streams) > 0 {
			return fmt.Errorf("%d streams", len(p.streams))
		}
		return nil
	})
}
