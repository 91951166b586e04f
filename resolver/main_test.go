// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// TestMain fails on goroutines, descriptors and namespaces that a test leaves.
func TestMain(m *testing.M) { testenv.Main(m, testenv.Roles{roleServe: serveRole}) }

// start serves cfg on loopback until the test ends and returns the address, the
// same for UDP and TCP.
func start(tb testing.TB, cfg Config) (*Server, netip.AddrPort) {
	tb.Helper()
	s, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	l, addr := listen(tb, "127.0.0.1")
	serve(tb, s, l)
	return s, addr
}

// serve runs Serve until the test ends, or until the returned function is called.
func serve(tb testing.TB, s *Server, l Listeners) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	tb.Cleanup(stop)
	return stop
}

// listen binds UDP and TCP to one free port.
func listen(tb testing.TB, host string) (Listeners, netip.AddrPort) {
	tb.Helper()
	addr := netip.MustParseAddr(host)
	for range 20 {
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		if err != nil {
			tb.Fatal(err)
		}
		at := netip.AddrPortFrom(addr, tcp.Addr().(*net.TCPAddr).AddrPort().Port())
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			_ = tcp.Close()
			continue
		}
		return Listeners{UDP: []*net.UDPConn{udp}, TCP: []*net.TCPListener{tcp}}, at
	}
	tb.Fatal("no port that is free for UDP and TCP")
	return Listeners{}, netip.AddrPort{}
}

// peer is the peer of a plain upstream.
func (sc *Scope) peer(addr netip.AddrPort) *peer { return sc.peerOf(plain(addr)) }

// table parses YAML or fails.
func table(tb testing.TB, yaml string) *Table {
	tb.Helper()
	t, err := ParseTable(Source{Path: "names.yaml", Data: []byte(yaml), Format: FormatYAML})
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// query builds a query as stubs do.
func query(name string, qtype uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
}

func withEDNS(m *dns.Msg, size uint16, options ...dns.EDNS0) *dns.Msg {
	m.SetEdns0(size, false)
	m.IsEdns0().Option = options
	return m
}

// exchange asks over UDP or TCP and returns the reply.
func exchange(tb testing.TB, network string, server netip.AddrPort, m *dns.Msg) *dns.Msg {
	tb.Helper()
	wire := pack(tb, m)
	return unpack(tb, exchangeWire(tb, network, server, wire))
}

func pack(tb testing.TB, m *dns.Msg) []byte {
	tb.Helper()
	wire, err := m.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return wire
}

func unpack(tb testing.TB, wire []byte) *dns.Msg {
	tb.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(wire); err != nil {
		tb.Fatalf("unpack %x: %v", wire, err)
	}
	return m
}

// patience is more than any answer of a test takes, on a busy machine too.
const patience = 30 * time.Second

func connect(tb testing.TB, network string, server netip.AddrPort) net.Conn {
	tb.Helper()
	conn, err := net.Dial(network, server.String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	return conn
}

func exchangeWire(tb testing.TB, network string, server netip.AddrPort, wire []byte) []byte {
	tb.Helper()
	conn := connect(tb, network, server)
	send(tb, conn, wire)
	return receive(tb, conn)
}

func isStream(conn net.Conn) bool { return strings.HasPrefix(conn.LocalAddr().Network(), "tcp") }

func send(tb testing.TB, conn net.Conn, wire []byte) {
	tb.Helper()
	var err error
	if isStream(conn) {
		err = writeFrame(conn, wire)
	} else {
		_, err = conn.Write(wire)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func receive(tb testing.TB, conn net.Conn) []byte {
	tb.Helper()
	if isStream(conn) {
		wire, err := readFrame(conn)
		if err != nil {
			tb.Fatal(err)
		}
		return wire
	}
	buf := make([]byte, maxWire)
	n, err := conn.Read(buf)
	if err != nil {
		tb.Fatal(err)
	}
	return buf[:n]
}

// lines are the records of a section, with single spaces.
func lines(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, strings.Join(strings.Fields(rr.String()), " "))
		}
	}
	return out
}

// ede is the extended error of a reply, and its words.
func ede(m *dns.Msg) (code int, text string) {
	opt := m.IsEdns0()
	if opt == nil {
		return -1, ""
	}
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			return int(e.InfoCode), e.ExtraText
		}
	}
	return -1, ""
}

// nameserver is an upstream whose every octet the test decides.
type nameserver struct {
	tb   testing.TB
	addr netip.AddrPort

	mu   sync.Mutex // guards seen
	seen []asked
}

// asked is one query that reached a nameserver.
type asked struct {
	network string
	from    netip.AddrPort
	wire    []byte
	conn    *net.TCPConn // nil over UDP
}

// script answers one query: it gets the socket's way back and the query.
type script func(reply func([]byte), q asked)

// upstream starts a nameserver. A nil script leaves that transport silent; TCP
// connections are closed after script returns.
func upstream(tb testing.TB, udp, tcp script) *nameserver {
	tb.Helper()
	l, addr := listen(tb, "127.0.0.1")
	n := &nameserver{tb: tb, addr: addr}
	var loops sync.WaitGroup
	loops.Go(func() { n.serveUDP(l.UDP[0], udp) })
	loops.Go(func() { n.serveTCP(l.TCP[0], tcp) })
	tb.Cleanup(func() {
		l.close()
		loops.Wait()
	})
	return n
}

func (n *nameserver) note(q asked) {
	n.mu.Lock()
	defer n.mu.Unlock()
	q.wire = slices.Clone(q.wire) // scripts may change theirs
	n.seen = append(n.seen, q)
}

// queries returns what has come so far.
func (n *nameserver) queries() []asked {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.seen)
}

func (n *nameserver) serveUDP(conn *net.UDPConn, answer script) {
	buf := make([]byte, maxWire)
	for {
		size, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		q := asked{network: "udp", from: from, wire: slices.Clone(buf[:size])}
		n.note(q)
		if answer != nil {
			answer(func(wire []byte) { _, _ = conn.WriteToUDPAddrPort(wire, from) }, q)
		}
	}
}

func (n *nameserver) serveTCP(l *net.TCPListener, answer script) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			wire, err := readFrame(conn)
			if err != nil {
				return
			}
			q := asked{network: "tcp", from: conn.RemoteAddr().(*net.TCPAddr).AddrPort(), wire: wire, conn: conn}
			n.note(q)
			if answer == nil {
				_, _ = readFrame(conn) // silent: until the other side gives up
				return
			}
			answer(func(wire []byte) { _ = writeFrame(conn, wire) }, q)
		})
	}
}

// with answers a query with records in the form of zone files.
func with(tb testing.TB, change func(*dns.Msg), records ...string) script {
	return func(reply func([]byte), q asked) { reply(respond(tb, q.wire, change, records...)) }
}

func respond(tb testing.TB, wire []byte, change func(*dns.Msg), records ...string) []byte {
	q := new(dns.Msg)
	if err := q.Unpack(wire); err != nil {
		tb.Errorf("nameserver got %x: %v", wire, err)
		return nil
	}
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(4096, opt.Do())
	}
	for _, record := range records {
		rr, err := dns.NewRR(record)
		if err != nil {
			tb.Errorf("record %q: %v", record, err)
			return nil
		}
		m.Answer = append(m.Answer, rr)
	}
	if change != nil {
		change(m)
	}
	out, err := m.Pack()
	if err != nil {
		tb.Errorf("nameserver: %v", err)
	}
	return out
}

// startAborting is start for tests that leave a query unanswered: its end does not wait
// the five seconds for it.
func startAborting(tb testing.TB, cfg Config) (s *Server, addr netip.AddrPort, stop func()) {
	tb.Helper()
	s, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	s.drain = 50 * time.Millisecond
	l, addr := listen(tb, "127.0.0.1")
	return s, addr, serve(tb, s, l)
}

// wantServed asks a server for t.example.org, which its table has, over TCP and UDP.
func wantServed(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		if got := exchange(t, network, addr, query("t.example.org", dns.TypeA)); len(got.Answer) != 1 {
			t.Errorf("over %s: %v", network, got)
		}
	}
}

// fromRR is a name on the wire, none if it cannot be one.
func fromRR(s string) wireName {
	name, err := parseName(s)
	if err != nil {
		return ""
	}
	return name
}
