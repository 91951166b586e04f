// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// quick resends soon, waits long enough for a busy machine, and keeps nothing.
func quick(ups ...netip.AddrPort) Config {
	return Config{Upstreams: ups, Resend: 50 * time.Millisecond, Timeout: patience, CacheBytes: -1}
}

// hasty is for tests that want to see a failure.
func hasty(ups ...netip.AddrPort) Config {
	return Config{Upstreams: ups, Resend: 50 * time.Millisecond, Timeout: 600 * time.Millisecond, CacheBytes: -1}
}

// closedPort is an address where nobody listens.
func closedPort(tb testing.TB) netip.AddrPort {
	tb.Helper()
	l, addr := listen(tb, "127.0.0.1")
	l.close()
	return addr
}

const good = "a.example.org. 5 IN A 192.0.2.1"

func wantGood(tb testing.TB, m *dns.Msg) {
	tb.Helper()
	if diff := cmp.Diff([]string{good}, lines(m.Answer)); diff != "" || m.Rcode != dns.RcodeSuccess {
		tb.Errorf("%s (-want +got):\n%s", dns.RcodeToString[m.Rcode], diff)
	}
}

// bigTXT is an answer of n records of about 270 octets each.
func bigTXT(n int) []string {
	var records []string
	for range n {
		records = append(records, `a.example.org. 5 IN TXT "`+strings.Repeat("x", 250)+`"`)
	}
	return records
}

// A reply from another address than the one that was asked is not even read: RFC 5452
// section 9.1.
func TestSpoofedSource(t *testing.T) {
	spoofer, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = spoofer.Close() })
	up := upstream(t, func(reply func([]byte), q asked) {
		fake := respond(t, q.wire, nil, "a.example.org. 5 IN A 203.0.113.66")
		if _, err := spoofer.WriteToUDPAddrPort(fake, q.from); err != nil {
			t.Errorf("spoof: %v", err)
		}
		reply(respond(t, q.wire, nil, good))
	}, nil)
	_, addr := start(t, quick(up.addr))
	wantGood(t, exchange(t, "udp", addr, query("a.example.org", dns.TypeA)))
}

// A query is sent again within a second (RFC 9520 section 3.1), and the client hears of
// the failure before its own five seconds are over.
func TestDefaultTimesEndBeforeTheStub(t *testing.T) {
	cfg, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Timeout >= 5*time.Second || cfg.Resend > time.Second || (tries-1)*cfg.Resend >= cfg.Timeout {
		t.Errorf("timeout %s, resend %s", cfg.Timeout, cfg.Resend)
	}
}

func TestFailover(t *testing.T) {
	answer := with(t, nil, good)
	fail := func(rcode int) script { return with(t, func(m *dns.Msg) { m.Rcode = rcode }) }
	for _, tc := range []struct {
		name  string
		first func(t *testing.T) netip.AddrPort
	}{
		{"down", func(t *testing.T) netip.AddrPort { return closedPort(t) }},
		{"silent", func(t *testing.T) netip.AddrPort { return upstream(t, nil, nil).addr }},
		{"SERVFAIL", func(t *testing.T) netip.AddrPort { return upstream(t, fail(dns.RcodeServerFailure), nil).addr }},
		{"REFUSED", func(t *testing.T) netip.AddrPort { return upstream(t, fail(dns.RcodeRefused), nil).addr }},
	} {
		bothWays(t, tc.name, func(t *testing.T, start starter) {
			second := upstream(t, answer, nil)
			_, addr := start(t, quick(tc.first(t), second.addr))
			wantGood(t, exchange(t, "udp", addr, query("a.example.org", dns.TypeA)))
		})
	}
	t.Run("all refuse", func(t *testing.T) {
		up := upstream(t, fail(dns.RcodeRefused), nil)
		_, addr := start(t, quick(up.addr, closedPort(t)))
		if got := exchange(t, "udp", addr, query("a.example.org", dns.TypeA)); got.Rcode != dns.RcodeRefused {
			t.Errorf("got %s, want the REFUSED that one of them gave", dns.RcodeToString[got.Rcode])
		}
	})
	t.Run("NXDOMAIN is an answer", func(t *testing.T) {
		second := upstream(t, answer, nil)
		cfg := quick(upstream(t, fail(dns.RcodeNameError), nil).addr, second.addr)
		cfg.Resend = patience
		_, addr := start(t, cfg)
		if got := exchange(t, "udp", addr, query("a.example.org", dns.TypeA)); got.Rcode != dns.RcodeNameError {
			t.Errorf("got %s", dns.RcodeToString[got.Rcode])
		}
		if n := len(second.queries()); n != 0 {
			t.Errorf("the second upstream got %d queries", n)
		}
	})
}

// A refusal without question goes back with the client's question.
func TestRefusalWithoutQuestion(t *testing.T) {
	up := upstream(t, func(reply func([]byte), q asked) {
		head := bytes.Clone(q.wire[:headerLen])
		head[2], head[3], head[5] = 0x80, dns.RcodeNotImplemented, 0
		reply(head)
	}, nil)
	_, addr := start(t, quick(up.addr))
	got := exchange(t, "udp", addr, query("a.example.org", dns.TypeA))
	if got.Rcode != dns.RcodeNotImplemented || len(got.Question) != 1 || got.Question[0].Name != "a.example.org." {
		t.Errorf("got %v", got)
	}
}

// A query that came by TCP goes on by TCP, a UDP one by UDP (RFC 7766 section 5).
func TestTransportIsKept(t *testing.T) {
	answer := with(t, nil, good)
	for _, network := range []string{"udp", "tcp"} {
		up := upstream(t, answer, answer)
		_, addr := start(t, quick(up.addr))
		wantGood(t, exchange(t, network, addr, query("a.example.org", dns.TypeA)))
		for _, q := range up.queries() {
			if q.network != network {
				t.Errorf("a query over %s went on over %s", network, q.network)
			}
		}
	}
}

// An upstream that is this very server is refused at the start: a proxy must not forward
// to itself (RFC 5625 section 4).
func TestLoop(t *testing.T) {
	l, addr := listen(t, "127.0.0.1")
	s, err := New(Config{Upstreams: []netip.AddrPort{addr}})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Serve(t.Context(), l)
	if want := "serve: upstream " + addr.String() + " is this resolver itself"; err == nil || err.Error() != want {
		t.Errorf("Serve: %v, want %s", err, want)
	}
}

// An Origin that leads back here is refused with each query, not followed (RFC 5625
// section 4).
func TestLoopOnTheWay(t *testing.T) {
	own := netip.MustParseAddrPort("127.0.0.1:53")
	s, err := New(Config{Origin: func(netip.Addr) (netip.Addr, bool) { return own.Addr(), true }})
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseMessage(pack(t, query("a.example.org", dns.TypeA)))
	if err != nil {
		t.Fatal(err)
	}
	for _, listening := range []string{"127.0.0.1:53", "0.0.0.0:53"} {
		at := []netip.AddrPort{netip.MustParseAddrPort(listening)}
		s.own.listening(at, true)
		_, err := s.chain.Exchange(t.Context(), &Request{Local: own.Addr(), msg: m, scope: s.own})
		if err == nil || err.Error() != "upstream 127.0.0.1:53 is this resolver itself" {
			t.Errorf("listening at %s: %v", listening, err)
		}
		s.own.listening(at, false)
	}
}

// More queries than may wait are refused with the reason, and the table answers on.
func TestForwardLimit(t *testing.T) {
	arrived := make(chan struct{}, 16)
	up := upstream(t, func(func([]byte), asked) { arrived <- struct{}{} }, nil)
	cfg := quick(up.addr)
	cfg.MaxForwards, cfg.Timeout, cfg.Resend = 1, patience, patience
	s, addr, stop := startAborting(t, cfg)
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	defer stop()
	waiting := connect(t, "udp", addr)
	send(t, waiting, pack(t, query("slow.example.org", dns.TypeA)))
	<-arrived
	got := exchange(t, "udp", addr, withEDNS(query("a.example.org", dns.TypeA), 1232))
	if code, text := ede(got); got.Rcode != dns.RcodeServerFailure || code != int(dns.ExtendedErrorCodeOther) || text != "1 queries already wait for upstreams" {
		t.Errorf("got %s, EDE %d %q", dns.RcodeToString[got.Rcode], code, text)
	}
	if got := exchange(t, "udp", addr, query("t.example.org", dns.TypeA)); len(got.Answer) != 1 {
		t.Errorf("the table does not answer: %v", got)
	}
}
