// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"context"
	"encoding/hex"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// header builds a message from a header in hex (spaces allowed) and more octets.
func raw(tb testing.TB, hexText string) []byte {
	tb.Helper()
	wire, err := hex.DecodeString(strings.Join(strings.Fields(hexText), ""))
	if err != nil {
		tb.Fatal(err)
	}
	return wire
}

// a.example.org. IN A as a question.
const questionHex = "0161 076578616d706c65 036f7267 00 0001 0001"

// Malformed and unusual queries: RFC 1035, 6891, 7873, 7828, 8490, 8906, 9619.
// What is not answered here must not reach the upstream.
func TestHeaderRules(t *testing.T) {
	up := upstream(t, with(t, nil, good), with(t, nil, good))
	_, addr := start(t, quick(up.addr))
	opt := func(rest string) string { return "00 0029 04d0 " + rest }
	for _, tc := range []struct {
		name   string
		wire   string
		silent bool
		rcode  int // with extended bits
	}{
		{"short", "1234 0100 0001", true, 0},
		{"eleven octets", "1234 0100 0001 0000 0000 00", true, 0},
		{"QR=1", "1234 8100 0001 0000 0000 0000 " + questionHex, true, 0},
		{"no question", "1234 0100 0000 0000 0000 0000", false, dns.RcodeFormatError},
		{"two questions", "1234 0100 0002 0000 0000 0000 " + questionHex + questionHex, false, dns.RcodeFormatError},
		{"question missing", "1234 0100 0001 0000 0000 0000", false, dns.RcodeFormatError},
		{"question cut", "1234 0100 0001 0000 0000 0000 0161 0765", false, dns.RcodeFormatError},
		{"octets behind", "1234 0100 0001 0000 0000 0000 " + questionHex + "00", false, dns.RcodeFormatError},
		{"record missing", "1234 0100 0001 0000 0000 0001 " + questionHex, false, dns.RcodeFormatError},
		{"label type 0x40", "1234 0100 0001 0000 0000 0000 41" + strings.Repeat("61", 65) + "00 0001 0001", false, dns.RcodeFormatError},
		{"name of 257 octets", "1234 0100 0001 0000 0000 0000 " + strings.Repeat("0761626364656667", 32) + "00 0001 0001", false, dns.RcodeFormatError},
		{"pointer to itself", "1234 0100 0001 0000 0000 0000 c00c 0001 0001", false, dns.RcodeFormatError},
		{"pointer into the header", "1234 0100 0001 0000 0000 0000 c000 0001 0001", false, dns.RcodeFormatError},
		{"pointer forward", "1234 0100 0001 0000 0000 0000 0161 c020 0001 0001 " + strings.Repeat("00", 16), false, dns.RcodeFormatError},
		{"pointer loop in a record", "1234 0100 0001 0000 0000 0001 " + questionHex + "0162 c01f 0001 0001 00000000 0000", false, dns.RcodeFormatError},
		{"RDATA too long", "1234 0100 0001 0000 0000 0001 " + questionHex + "00 0001 0001 00000000 0004 c0", false, dns.RcodeFormatError},
		{"two OPT", "1234 0100 0001 0000 0000 0002 " + questionHex + opt("00000000 0000") + opt("00000000 0000"), false, dns.RcodeFormatError},
		{"OPT not at the root", "1234 0100 0001 0000 0000 0001 " + questionHex + "0161 00 0029 04d0 00000000 0000", false, dns.RcodeFormatError},
		{"OPT in the answer", "1234 0100 0001 0001 0000 0000 " + questionHex + opt("00000000 0000"), false, dns.RcodeFormatError},
		{"option cut", "1234 0100 0001 0000 0000 0001 " + questionHex + opt("00000000 0003 000a00"), false, dns.RcodeFormatError},
		{"option too long", "1234 0100 0001 0000 0000 0001 " + questionHex + opt("00000000 0004 000a0001"), false, dns.RcodeFormatError},
		{"cookie of 7", "1234 0100 0001 0000 0000 0001 " + questionHex + opt("00000000 000b 000a0007 01020304050607"), false, dns.RcodeFormatError},
		{"record behind TSIG", "1234 0100 0001 0000 0000 0002 " + questionHex + "00 00fa 00ff 00000000 0000" + opt("00000000 0000"), false, dns.RcodeFormatError},
		{"EDNS version 1", "1234 0100 0001 0000 0000 0001 " + questionHex + opt("00010000 0000"), false, dns.RcodeBadVers},
		{"DSO with data", "1234 3000 0000 0000 0000 0000 0001 0008 00003a98 00003a98", false, dns.RcodeNotImplemented},
		{"opcode 9, another form", "1234 4800 0001 0000 0000 0000 ffff", false, dns.RcodeNotImplemented},
		{"NOTIFY cut", "1234 2000 0001 0000 0000 0000 0161", false, dns.RcodeFormatError},
		{"DSO", "1234 3000 0000 0000 0000 0000", false, dns.RcodeNotImplemented},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(up.queries())
			wire := raw(t, tc.wire)
			conn := connect(t, "udp", addr)
			send(t, conn, wire)
			if tc.silent {
				// The next answer shows that there was none to the first.
				q := query("a.example.org", dns.TypeA)
				q.Id = 0x4321
				send(t, conn, pack(t, q))
				if got := unpack(t, receive(t, conn)); got.Id != 0x4321 {
					t.Errorf("answered: %v", got)
				}
				return
			}
			got := unpack(t, receive(t, conn))
			if got.Id != 0x1234 || !got.Response || got.Rcode != tc.rcode {
				t.Errorf("got %v", got)
			}
			if got.Opcode != int(wire[2]>>3&0xf) {
				t.Errorf("opcode %d", got.Opcode)
			}
			if n := len(up.queries()) - before; n != 0 {
				t.Errorf("%d queries went on", n)
			}
		})
	}
}

// Answers leave from the address that was asked, whichever it is: IP_PKTINFO.
func TestAnswersFromTheAddressAsked(t *testing.T) {
	wild, at := listen(t, "0.0.0.0")
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	s.SetTable(table(t, storyTable))
	serve(t, s, wild)
	dual, at6 := listen(t, "::")
	serve(t, s, dual)
	for _, tc := range []struct {
		host string
		port uint16
	}{
		{"127.0.0.1", at.Port()}, {"127.53.0.7", at.Port()}, {"127.53.255.254", at.Port()},
		{"::1", at6.Port()}, {"127.53.0.7", at6.Port()},
	} {
		for _, network := range []string{"udp", "tcp"} {
			// A connected socket hears nothing from any other address.
			server := netip.AddrPortFrom(netip.MustParseAddr(tc.host), tc.port)
			got := exchange(t, network, server, query("any.apps.example.org", dns.TypeA))
			if len(got.Answer) != 1 {
				t.Errorf("%s %s: %v", network, server, got)
			}
		}
	}
}

// The local address says which nameserver was meant; without Upstreams it is asked.
func TestOrigin(t *testing.T) {
	tag, other := netip.MustParseAddr("127.53.0.7"), netip.MustParseAddr("127.53.0.8")
	end := &oracle{tb: t, answer: says(t, nil, good)}
	s := before(t, Config{Origin: func(local netip.Addr) (netip.Addr, bool) {
		return netip.MustParseAddr("192.0.2.7"), local == tag
	}}, end)
	ask := func(local netip.Addr) string {
		in := packetOf(t, withEDNS(query("a.example.org", dns.TypeA), 1232))
		in.local = local
		m := askServer(t, s, in)
		if m.Rcode != dns.RcodeSuccess {
			return fmtEDE(m)
		}
		return end.seen[len(end.seen)-1].upstreams[0].String()
	}
	if got := ask(tag); got != "192.0.2.7:53" {
		t.Errorf("asked %s", got)
	}
	if got := ask(other); got != "22 no upstream for queries at 127.53.0.8" {
		t.Errorf("unknown local address: %s", got)
	}
	if err := s.own.Set(Settings{Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}}); err != nil {
		t.Fatal(err)
	}
	if got := ask(tag); got != "192.0.2.1:53" {
		t.Errorf("Upstreams do not win: asked %s", got)
	}
}

// Never an open resolver: at a local address that is neither loopback nor known to
// Origin nobody is served.
func TestIsServed(t *testing.T) {
	ula := netip.MustParseAddr("fd64:6e73:7465:3acd::7")
	s, err := New(Config{Origin: func(local netip.Addr) (netip.Addr, bool) { return netip.MustParseAddr("192.0.2.7"), local == ula }})
	if err != nil {
		t.Fatal(err)
	}
	for local, want := range map[string]bool{"127.0.0.1": true, "127.53.1.2": true, "::1": true, ula.String(): true, "192.0.2.9": false, "2001:db8::1": false} {
		if got := s.own.isServed(netip.MustParseAddr(local)); got != want {
			t.Errorf("%s: %t, want %t", local, got, want)
		}
	}
	bare, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if bare.own.isServed(ula) {
		t.Error("served without Origin")
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		`upstream "invalid AddrPort" is not the address and port of a server`: {Upstreams: make([]netip.AddrPort, 1)},
		`upstream "192.0.2.1:0" is not the address and port of a server`:      {Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:0")}},
		`upstream "0.0.0.0:53" is not the address and port of a server`:       {Upstreams: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:53")}},
		`a timeout or limit is negative`:                                      {Timeout: -1},
	} {
		if _, err := New(cfg); err == nil || err.Error() != name {
			t.Errorf("got %v, want %s", err, name)
		}
	}
}

// After the end, what was received and is in flight is answered, and the first question of
// a connection that was there.
func TestServeDrains(t *testing.T) {
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	slow := func(reply func([]byte), q asked) {
		arrived <- struct{}{}
		<-release
		reply(respond(t, q.wire, nil, good))
	}
	up := upstream(t, slow, slow)
	s, err := New(Config{Upstreams: []netip.AddrPort{up.addr}, Resend: patience, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	l, addr := listen(t, "127.0.0.1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()

	var conns []net.Conn
	for _, network := range []string{"udp", "tcp"} {
		conn := connect(t, network, addr)
		send(t, conn, pack(t, query("a.example.org", dns.TypeA)))
		conns = append(conns, conn)
		<-arrived
	}
	ask := func(conn net.Conn) {
		send(t, conn, pack(t, query("t.example.org", dns.TypeA)))
		if m := unpack(t, receive(t, conn)); len(m.Answer) != 1 {
			t.Errorf("got %v", m)
		}
	}
	idle, slowly, silent := connect(t, "tcp", addr), connect(t, "tcp", addr), connect(t, "tcp", addr)
	ask(idle)
	cancel()
	close(release)
	for _, conn := range conns {
		wantGood(t, unpack(t, receive(t, conn)))
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("the idle connection is still open")
	}
	ask(slowly)
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("the connection that asks nothing is still open")
	}
	if err := l.UDP[0].SetReadDeadline(time.Time{}); err == nil {
		t.Error("the UDP socket is still open")
	}
	if len(*s.own.listen.Load()) != 0 {
		t.Errorf("still listening at %v", *s.own.listen.Load())
	}
}

// What waits for a dead upstream does not hold up the end beyond its bound.
func TestServeDrainIsBounded(t *testing.T) {
	arrived := make(chan struct{}, 1)
	up := upstream(t, func(func([]byte), asked) { arrived <- struct{}{} }, nil)
	_, addr, stop := startAborting(t, Config{Upstreams: []netip.AddrPort{up.addr}, Resend: time.Hour, Timeout: time.Hour})
	send(t, connect(t, "udp", addr), pack(t, query("a.example.org", dns.TypeA)))
	<-arrived
	stop() // the test's time limit is the assertion
}

func TestServeWithoutListeners(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), Listeners{}); err == nil || err.Error() != "serve: no listeners" {
		t.Errorf("got %v", err)
	}
}

// A socket that breaks ends Serve with an error, for the supervisor to see.
func TestServeReportsBrokenSocket(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	l, addr := listen(t, "127.0.0.1")
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context(), l) }()
	if err := Ping(t.Context(), addr); err != nil {
		t.Fatal(err)
	}
	_ = l.UDP[0].Close()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "read from ") {
		t.Errorf("got %v", err)
	}
}

func TestPing(t *testing.T) {
	s, addr := start(t, Config{MaxForwards: 1})
	if err := Ping(t.Context(), addr); err != nil {
		t.Error(err)
	}
	// With every turn taken the loop still answers.
	for range cap(s.turns) {
		s.turns <- struct{}{}
	}
	if err := Ping(t.Context(), addr); err != nil {
		t.Errorf("with no turn left: %v", err)
	}
	for range cap(s.turns) {
		<-s.turns
	}
	ping := make([]byte, headerLen)
	setCount(ping, countQD, 1)
	ping = append(ping, pingQuestion...)
	if got := unpack(t, exchangeWire(t, "tcp", addr, ping)); got.Rcode != dns.RcodeRefused {
		t.Errorf("over TCP: %v", got)
	}
}

// Nobody else's answer is a heartbeat.
func TestPingIsNotFooled(t *testing.T) {
	other := upstream(t, with(t, nil, `ping.dnsteer. 0 CH TXT "anything"`), nil)
	if err := Ping(t.Context(), other.addr); err == nil || !strings.HasSuffix(err.Error(), "answered by another server") {
		t.Errorf("other server: %v", err)
	}
	if err := Ping(t.Context(), closedPort(t)); err == nil || !strings.HasSuffix(err.Error(), "connection refused") {
		t.Errorf("nobody: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := Ping(ctx, upstream(t, nil, nil).addr); err == nil || !strings.HasSuffix(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("silent: %v", err)
	}
}

// Whatever goes wrong here, the answer says why: RFC 8914 section 2.
func TestEveryFailureSaysWhy(t *testing.T) {
	_, addr := start(t, Config{})
	for name, tc := range map[string]struct {
		m     *dns.Msg
		rcode int
		want  string
	}{
		"nobody to ask": {withEDNS(query("a.example.org", dns.TypeA), 1232), dns.RcodeServerFailure, "22 no upstream for queries at 127.0.0.1"},
		"cookie": {withEDNS(query("a.example.org", dns.TypeA), 1232, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "01"}),
			dns.RcodeFormatError, "0 cookie of a wrong length"},
		"version": {func() *dns.Msg {
			m := withEDNS(query("a.example.org", dns.TypeA), 1232)
			m.IsEdns0().SetVersion(1)
			return m
		}(), dns.RcodeBadVers, "21 EDNS version above 0"},
	} {
		if got := exchange(t, "udp", addr, tc.m); got.Rcode != tc.rcode || fmtEDE(got) != tc.want {
			t.Errorf("%s: %s %q, want %q", name, dns.RcodeToString[got.Rcode], fmtEDE(got), tc.want)
		}
	}
}

// What a message takes is in proportion to its octets, not to what its counts and lengths
// announce: RFC 9267 sections 5 and 6.
func TestHostileMessagesAreCheap(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for name, wire := range map[string][]byte{
		"questions that are not there": raw(t, "1234 0100 ffff 0000 0000 0000"),
		"records that are not there":   raw(t, "1234 0100 0001 ffff ffff ffff "+questionHex),
		"RDATA that is not there":      raw(t, "1234 0100 0001 0000 0000 0001 "+questionHex+"00 0001 0001 00000000 ffff"),
		"nothing but OPT":              append(raw(t, "1234 0100 0001 0000 0000 ffff "+questionHex), bytes.Repeat(raw(t, "00 0029 04d0 00000000 0000"), 5000)...),
		"nothing but records":          append(raw(t, "1234 0100 0001 ffff 0000 0000 "+questionHex), bytes.Repeat(raw(t, "00 0001 0001 00000000 0000"), 5000)...),
		"garbage":                      bytes.Repeat([]byte("\x01\x23\x01\x00\x00\x05"), maxWire/6),
	} {
		const runs = 20
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			in := packet{wire: wire, client: netip.MustParseAddrPort("127.0.0.1:5353"), local: loopback, tcp: true}
			if err := s.own.answer(t.Context(), in, func([]byte) error { return nil }); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		runtime.ReadMemStats(&after)
		most := 8<<10 + 16*len(wire) // records have places, of some words each
		if got := int(after.TotalAlloc-before.TotalAlloc) / runs; got > most {
			t.Errorf("%s: %d octets cost %d of memory, more than %d", name, len(wire), got, most)
		}
	}
}

func TestMalformedKeepsTheID(t *testing.T) {
	got := malformed(raw(t, "beef 0110 0001 0000 0000 0000"))
	if want := raw(t, "beef 8111 0000 0000 0000 0000"); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}
