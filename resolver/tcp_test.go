// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// Queries on one connection are answered as their answers come, not in turn:
// RFC 7766 sections 6.2.1.1 and 7.
func TestPipelining(t *testing.T) {
	release := make(chan struct{})
	up := upstream(t, nil, func(reply func([]byte), q asked) {
		if unpack(t, q.wire).Question[0].Name == "slow.example.org." {
			<-release
		}
		reply(respond(t, q.wire, nil))
	})
	s, addr := start(t, Config{Upstreams: []netip.AddrPort{up.addr}, Resend: patience})
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	conn := connect(t, "tcp", addr)
	for id, name := range []string{"slow.example.org", "fast.example.org", "t.example.org"} {
		q := query(name, dns.TypeA)
		q.Id = uint16(id)
		send(t, conn, pack(t, q))
	}
	var order []uint16
	for range 2 {
		order = append(order, unpack(t, receive(t, conn)).Id)
	}
	close(release)
	order = append(order, unpack(t, receive(t, conn)).Id)
	if order[2] != 0 || order[0] == order[1] {
		t.Errorf("answers in the order %v", order)
	}
}

// Length prefixes come split and coalesced (RFC 7766 section 8).
func TestSegments(t *testing.T) {
	s, addr := start(t, Config{})
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	frame := func(id uint16) []byte {
		q := query("t.example.org", dns.TypeA)
		q.Id = id
		wire := pack(t, q)
		return append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
	}
	both := slices.Concat(frame(1), frame(2))
	for name, cuts := range map[string][]int{
		"coalesced": {}, "in the length": {1}, "behind the length": {2}, "in the message": {20},
		"in the second length": {len(both)/2 + 1}, "each octet": nil,
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, "tcp", addr)
			_ = conn.(*net.TCPConn).SetNoDelay(true)
			if cuts == nil {
				for i := range len(both) - 1 {
					cuts = append(cuts, i+1)
				}
			}
			from := 0
			for _, to := range append(cuts, len(both)) {
				if _, err := conn.Write(both[from:to]); err != nil {
					t.Fatal(err)
				}
				from = to
			}
			ids := []uint16{unpack(t, receive(t, conn)).Id, unpack(t, receive(t, conn)).Id}
			slices.Sort(ids)
			if diff := cmp.Diff([]uint16{1, 2}, ids); diff != "" {
				t.Errorf("IDs (-want +got):\n%s", diff)
			}
		})
	}
}

// A client that closes its half still hears the answers; a header too short, or one
// that is an answer, ends in nothing.
func TestHalfClosed(t *testing.T) {
	s, addr := start(t, Config{})
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	conn := connect(t, "tcp", addr)
	send(t, conn, pack(t, query("t.example.org", dns.TypeA)))
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := unpack(t, receive(t, conn)); len(got.Answer) != 1 {
		t.Errorf("got %v", got)
	}
	if _, err := readFrame(conn); !errors.Is(err, io.EOF) {
		t.Errorf("behind the answer: %v", err)
	}
}

func TestShortFrameCloses(t *testing.T) {
	_, addr := start(t, Config{})
	conn := connect(t, "tcp", addr)
	send(t, conn, []byte("short"))
	if _, err := readFrame(conn); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

// RFC 7828: the option is answered over TCP, ignored over UDP, and refused with a
// timeout in a query.
func TestKeepalive(t *testing.T) {
	s, addr := start(t, Config{})
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	keepalive := func(network string, timeout uint16) *dns.Msg {
		o := &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE, Timeout: timeout}
		return exchange(t, network, addr, withEDNS(query("t.example.org", dns.TypeA), 1232, o))
	}
	got := keepalive("tcp", 0).IsEdns0()
	if len(got.Option) != 1 || got.Option[0].(*dns.EDNS0_TCP_KEEPALIVE).Timeout != 100 {
		t.Errorf("over TCP: %v", got)
	}
	if got := keepalive("udp", 0).IsEdns0(); len(got.Option) != 0 {
		t.Errorf("over UDP: %v", got)
	}
	if got := keepalive("tcp", 7); got.Rcode != dns.RcodeFormatError {
		t.Errorf("with a timeout: %v", got)
	}
	if got := keepalive("udp", 7); got.Rcode != dns.RcodeSuccess {
		t.Errorf("with a timeout over UDP: %v", got)
	}
}

// At the limit an idle connection makes room; where none is idle the new one goes.
func TestConnectionLimit(t *testing.T) {
	arrived, answers := make(chan struct{}, 4), make(chan struct{})
	release := sync.OnceFunc(func() { close(answers) })
	up := upstream(t, nil, func(reply func([]byte), q asked) {
		arrived <- struct{}{}
		<-answers
		reply(respond(t, q.wire, nil, good))
	})
	s, addr := start(t, Config{Upstreams: []netip.AddrPort{up.addr}, MaxConns: 2, Resend: patience})
	defer release()
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	open := func() net.Conn {
		conn := connect(t, "tcp", addr)
		send(t, conn, pack(t, query("t.example.org", dns.TypeA)))
		receive(t, conn)
		return conn
	}
	oldest, busy := open(), open()
	send(t, busy, pack(t, query("a.example.org", dns.TypeA)))
	<-arrived
	var newest net.Conn
	testenv.Eventually(t, patience, func() (err error) { // idle is who has its answer, some moments later
		newest = connect(t, "tcp", addr)
		send(t, newest, pack(t, query("t.example.org", dns.TypeA)))
		_, err = readFrame(newest)
		return err
	})
	if _, err := readFrame(oldest); err == nil {
		t.Error("the idle connection is still there")
	}
	another := query("a.example.org", dns.TypeA)
	another.CheckingDisabled = true // identical questions would join
	send(t, newest, pack(t, another))
	<-arrived
	refused := connect(t, "tcp", addr)
	if _, err := readFrame(refused); err == nil {
		t.Error("one more than the limit is served")
	}
	release()
	for _, conn := range []net.Conn{busy, newest} {
		wantGood(t, unpack(t, receive(t, conn)))
	}
}

// A client that asks and never reads holds up only itself.
func TestSlowReader(t *testing.T) {
	up := upstream(t, nil, with(t, nil, bigTXT(200)...))
	cfg := Config{Upstreams: []netip.AddrPort{up.addr}, MaxForwards: 4}
	s, addr, _ := startAborting(t, cfg)
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	lazy := connect(t, "tcp", addr)
	_ = lazy.(*net.TCPConn).SetReadBuffer(4096)
	_ = lazy.SetWriteDeadline(time.Now().Add(time.Second))
	for range 200 { // 10 MB of answers, more than the buffers take
		if writeFrame(lazy, pack(t, query("a.example.org", dns.TypeTXT))) != nil {
			break
		}
	}
	wantServed(t, addr)
	_ = lazy.Close()
}

// Clients whose messages do not come to their end hold up nobody: where all connections
// are theirs the oldest makes room (RFC 9210 section 5.1), and who goes on is answered.
func TestSlowWriter(t *testing.T) {
	s, addr := start(t, Config{MaxConns: 3})
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	wire := pack(t, query("t.example.org", dns.TypeA))
	frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
	var slow []net.Conn
	for i := range 3 {
		conn := connect(t, "tcp", addr)
		if _, err := conn.Write(frame[:1+i*headerLen]); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, conn)
	}
	wantServed(t, addr)
	if _, err := readFrame(slow[0]); err == nil {
		t.Error("the oldest connection is still there")
	}
	if _, err := slow[2].Write(frame[1+2*headerLen:]); err != nil {
		t.Fatal(err)
	}
	if got := unpack(t, receive(t, slow[2])); len(got.Answer) != 1 {
		t.Errorf("got %v", got)
	}
}

// A connection has so many queries that wait, and is not read beyond (RFC 7766 section
// 6.2.1.1 leaves the number to servers): a client with many does not take the turns of
// others.
func TestPipelineLimit(t *testing.T) {
	release := make(chan struct{})
	up := streamServer(t, func(conn net.Conn, _ int) {
		for {
			wire, err := readFrame(conn)
			if err != nil {
				return
			}
			<-release
			_ = writeFrame(conn, respond(t, wire, nil))
		}
	})
	cfg := quick(up)
	cfg.Resend = patience
	s, addr := start(t, cfg)
	released := sync.OnceFunc(func() { close(release) })
	t.Cleanup(released) // before the servers end
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	const n = maxPipelined + 10
	greedy := connect(t, "tcp", addr)
	for i := range n {
		send(t, greedy, pack(t, query(fmt.Sprintf("n%d.example.org", i), dns.TypeA)))
	}
	waiting := func() error {
		if got := scrape(t, s)["dnsteer_resolver_waiting"]; got != maxPipelined {
			return fmt.Errorf("%v queries wait", got)
		}
		return nil
	}
	testenv.Eventually(t, patience, waiting)
	if got := exchange(t, "tcp", addr, query("t.example.org", dns.TypeA)); len(got.Answer) != 1 {
		t.Errorf("another connection: %v", got)
	}
	if err := waiting(); err != nil {
		t.Error(err)
	}
	released()
	for range n {
		if got := unpack(t, receive(t, greedy)); got.Rcode != dns.RcodeSuccess {
			t.Errorf("got %v", got)
		}
	}
}

// widest notes the largest buffer that a reader was to fill.
type widest struct {
	io.Reader
	most int
}

func (w *widest) Read(p []byte) (int, error) {
	w.most = max(w.most, len(p))
	return w.Reader.Read(p)
}

// A message takes the memory that its octets need, not what the length in front of it
// announces (RFC 1035 section 4.2.2), and comes whole however it is split.
func TestFrameGrowsWithWhatComes(t *testing.T) {
	announced := &widest{Reader: bytes.NewReader(append([]byte{0xff, 0xff}, make([]byte, 100)...))}
	if _, err := readFrame(announced); !errors.Is(err, io.ErrUnexpectedEOF) || announced.most > frameStep {
		t.Errorf("%v, after a buffer of %d octets", err, announced.most)
	}
	for _, n := range []int{0, 1, frameStep - 1, frameStep, frameStep + 1, maxWire} {
		wire := bytes.Repeat([]byte("dnsteer"), n/7+1)[:n]
		frame := append(binary.BigEndian.AppendUint16(nil, uint16(n)), wire...)
		for name, buf := range map[string][]byte{"new": nil, "used before": make([]byte, 0, 300)} {
			got, err := appendFrame(buf, iotest.HalfReader(bytes.NewReader(frame)))
			if err != nil || !bytes.Equal(got, wire) {
				t.Errorf("%d octets, %s: %d octets, %v", n, name, len(got), err)
			}
		}
	}
}

// idleConn is a connection in a bubble of false time.
func idleConn(t *testing.T) (client net.Conn, c *tcpConn) {
	client, server := net.Pipe()
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
	})
	c = &tcpConn{serving: &serving{reading: t.Context()}, conn: server}
	c.last.Store(time.Now().UnixNano())
	return client, c
}

// Idle time is ten seconds from the last answer (RFC 7766 section 6.2.3).
func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := idleConn(t)
		start := time.Now()
		if c.awaitFrame(bufio.NewReader(c.conn)) {
			t.Error("a message out of nothing")
		}
		if got := time.Since(start); got != tcpIdle {
			t.Errorf("closed after %s", got)
		}
	})
}

// A connection that waits for answers is not idle.
func TestIdleTimeoutCountsFromTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := idleConn(t)
		c.waiting.Add(1)
		time.AfterFunc(25*time.Second, func() {
			c.last.Store(time.Now().UnixNano())
			c.waiting.Add(-1)
		})
		start := time.Now()
		c.awaitFrame(bufio.NewReader(c.conn))
		if got := time.Since(start); got != 35*time.Second {
			t.Errorf("closed after %s", got)
		}
	})
}

// A message that trickles in has ten seconds for all its octets, not for each.
func TestTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, c := idleConn(t)
		over := make(chan struct{})
		defer func() {
			_ = client.Close()
			<-over
		}()
		go func() {
			defer close(over)
			for {
				if _, err := client.Write([]byte{0}); err != nil {
					return
				}
				<-time.After(3 * time.Second)
			}
		}()
		r := bufio.NewReader(c.conn)
		start := time.Now()
		if !c.awaitFrame(r) {
			t.Fatal("no message")
		}
		_, _ = r.Discard(1)
		if _, err := readFrame(io.MultiReader(bytes.NewReader([]byte{1, 0}), r)); err == nil {
			t.Error("a whole message")
		}
		if got := time.Since(start); got != tcpIdle {
			t.Errorf("gave up after %s", got)
		}
	})
}

// What is ready for queries that came together goes in one call (RFC 7766 section 8),
// also when a query that is not ready, or a mistake, stands behind them.
func TestReadyAnswersShareAWrite(t *testing.T) {
	s := warm(t)
	var frames []byte
	for id := range uint16(20) {
		q := query("web.example.org", dns.TypeA)
		q.Id = id
		wire := pack(t, q)
		frames = append(binary.BigEndian.AppendUint16(frames, uint16(len(wire))), wire...)
	}
	long := pack(t, withEDNS(query("web.example.org", dns.TypeA), 1232, &dns.EDNS0_LOCAL{Code: optOrigin}))
	for name, tc := range map[string]struct {
		behind          []byte
		answers, writes int
	}{
		"nothing":   {nil, 20, 1},
		"long way":  {append(binary.BigEndian.AppendUint16(nil, uint16(len(long))), long...), 21, 2},
		"a mistake": {[]byte{0, 1, 7}, 20, 1},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			counted := &countWrites{Conn: near}
			v := &serving{Server: s, Scope: s.own, reading: t.Context(), work: t.Context(), conns: connSet{limit: 1}}
			c := &tcpConn{serving: v, conn: counted, local: loopback}
			c.last.Store(time.Now().UnixNano())
			var served sync.WaitGroup
			served.Go(c.serve)
			_ = far.SetDeadline(time.Now().Add(patience))
			// With one write, as bufio reads it with one read.
			if _, err := far.Write(append(slices.Clone(frames), tc.behind...)); err != nil {
				t.Fatal(err)
			}
			for range tc.answers {
				if _, err := readFrame(far); err != nil {
					t.Fatal(err)
				}
			}
			far.Close()
			served.Wait()
			if got := counted.n.Load(); got != int32(tc.writes) {
				t.Errorf("%d writes, want %d", got, tc.writes)
			}
		})
	}
}

type countWrites struct {
	net.Conn
	n atomic.Int32
}

func (c *countWrites) Write(b []byte) (int, error) {
	c.n.Add(1)
	return c.Conn.Write(b)
}
