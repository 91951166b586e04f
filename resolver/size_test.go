// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// Sizes: RFC 1035 section 4.2.1, RFC 6891 section 6.2, RFC 2181 section 9.
func TestSizes(t *testing.T) {
	whole := with(t, nil, bigTXT(15)...) // about 4 kB
	truncating := func(reply func([]byte), q asked) {
		size := minSize
		if opt := unpack(t, q.wire).IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		w := respond(t, q.wire, nil, bigTXT(15)...)
		if len(w) > size {
			w = respond(t, q.wire, func(m *dns.Msg) { m.Truncated = true })
		}
		reply(w)
	}
	up := upstream(t, truncating, whole)
	_, addr := start(t, quick(up.addr))
	for _, tc := range []struct {
		name    string
		network string
		size    uint16 // 0: no OPT
		limit   int
		whole   bool
	}{
		{"no EDNS", "udp", 0, 512, false},
		{"less than 512 is 512", "udp", 100, 512, false},
		{"1232", "udp", 1232, 1232, false},
		{"4096 is too little", "udp", 3000, 3000, false},
		{"8192", "udp", 8192, 8192, true},
		{"TCP", "tcp", 0, maxWire, true},
		{"TCP ignores the size", "tcp", 512, maxWire, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := query("a.example.org", dns.TypeTXT)
			if tc.size > 0 {
				withEDNS(q, tc.size)
			}
			wire := exchangeWire(t, tc.network, addr, pack(t, q))
			got := unpack(t, wire)
			if len(wire) > tc.limit {
				t.Errorf("%d octets, more than %d", len(wire), tc.limit)
			}
			if got.Truncated == tc.whole {
				t.Errorf("TC is %t", got.Truncated)
			}
			// An RRset is there whole or not at all.
			if n := len(got.Answer); n != 0 && n != 15 || (n == 15) != tc.whole {
				t.Errorf("%d of 15 records", n)
			}
			if (got.IsEdns0() != nil) != (tc.size > 0) {
				t.Errorf("OPT in the reply: %v", got.IsEdns0())
			}
		})
	}
	for _, q := range up.queries() {
		if opt := unpack(t, q.wire).IsEdns0(); opt != nil && opt.UDPSize() != udpSize {
			t.Errorf("asked the upstream for %d octets", opt.UDPSize())
		}
	}
}

// 64 kB of answer pass whole over TCP.
func TestLargestAnswer(t *testing.T) {
	exact := func(reply func([]byte), q asked) {
		m := respond(t, q.wire, func(m *dns.Msg) { m.Extra = nil }, bigTXT(1)...)
		fixed := len(m)
		rest := maxWire - fixed
		m = append(m, 0xc0, headerLen, 0xff, 0x00, 0, 1, 0, 0, 0, 5) // TYPE65280
		m = binary.BigEndian.AppendUint16(m, uint16(rest-12))
		m = append(m, make([]byte, rest-12)...)
		setCount(m, countAN, 2)
		reply(m)
	}
	up := upstream(t, nil, exact)
	_, addr := start(t, quick(up.addr))
	for _, q := range []*dns.Msg{query("a.example.org", dns.TypeTXT), withEDNS(query("a.example.org", dns.TypeTXT), 1232)} {
		wire := exchangeWire(t, "tcp", addr, pack(t, q))
		if got := unpack(t, wire); len(wire) != maxWire || len(got.Answer) != 2 || got.Truncated {
			t.Errorf("%d octets, %d records, TC %t", len(wire), len(got.Answer), got.Truncated)
		}
	}
}

// TC from the upstream, and its TCP is down: the client gets the TC to try itself.
func TestTruncatedAndNoTCP(t *testing.T) {
	up := upstream(t, with(t, func(m *dns.Msg) { m.Truncated = true }), func(func([]byte), asked) {})
	_, addr := start(t, quick(up.addr))
	if got := exchange(t, "udp", addr, query("a.example.org", dns.TypeA)); !got.Truncated || got.Rcode != dns.RcodeSuccess {
		t.Errorf("got %v", got)
	}
}

// A signed answer is not cut to pieces: what the client cannot take becomes TC.
func TestSignedTooLarge(t *testing.T) {
	big := func(reply func([]byte), q asked) {
		reply(respond(t, q.wire, func(m *dns.Msg) {
			m.Extra = nil
			m.SetTsig("key.example.org.", dns.HmacSHA256, 300, 1)
		}, bigTXT(5)...))
	}
	up := upstream(t, big, nil)
	_, addr := start(t, quick(up.addr))
	wire := exchangeWire(t, "udp", addr, pack(t, query("a.example.org", dns.TypeTXT)))
	got := unpack(t, wire)
	if len(wire) > minSize || !got.Truncated || len(got.Answer)+len(got.Extra) != 0 {
		t.Errorf("%d octets: %v", len(wire), got)
	}
}

// The size that a client names has a bound of its own.
func TestLimit(t *testing.T) {
	for _, tc := range []struct {
		req  Request
		want int
	}{
		{Request{}, 512},
		{Request{edns: &edns{size: 0}}, 512},
		{Request{edns: &edns{size: 1400}}, 1400},
		{Request{edns: &edns{size: 65535}}, maxDatagram},
		{Request{TCP: true, edns: &edns{size: 512}}, maxWire},
	} {
		if got := tc.req.limit(); got != tc.want {
			t.Errorf("%+v: %d, want %d", tc.req, got, tc.want)
		}
	}
}

// What goes on is never more than a message, padded or with a cookie: of one octet more
// the length would be another one, and the rest the next queries on the connection.
func TestGiantQueryStaysAMessage(t *testing.T) {
	option := &dns.EDNS0_LOCAL{Code: 65099}
	q := withEDNS(query("a.example.org", dns.TypeA), 1232, option)
	least := len(pack(t, q))
	for n := maxWire - 2*padBlock; n <= maxWire; n++ {
		option.Data = make([]byte, n-least)
		req, err := newRequest(packet{wire: pack(t, q), tcp: true})
		if err != nil {
			t.Fatal(err)
		}
		var known jar
		known.Store(&cookie{sent: make([]byte, maxCookies)})
		for how, opt := range map[string]*edns{"padded": req.edns.hidden(), "with a cookie": known.opt(&try{req: req, opt: req.edns}, nil)} {
			if wire := outgoing(nil, req, 1, opt); len(wire) < n || len(wire) > maxWire {
				t.Fatalf("%d octets are %d, %s", n, len(wire), how)
			}
		}
	}
}

// A query that UDP does not carry on goes by TCP, and takes none with it that waits on
// the same port.
func TestGiantQueryHarmsNobody(t *testing.T) {
	const n = 64 // on every port
	arrived, release := make(chan struct{}, n), make(chan struct{})
	up := upstream(t, func(reply func([]byte), q asked) {
		arrived <- struct{}{}
		go func() {
			<-release
			with(t, nil, good)(reply, q)
		}()
	}, with(t, nil, good))
	s, err := New(Config{Upstreams: []netip.AddrPort{up.addr}, Resend: patience, Timeout: patience, CacheBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	l, addr := listen(t, "::1") // IPv6 carries some octets more
	serve(t, s, l)
	var conns []net.Conn
	for i := range n {
		conn := connect(t, "udp", addr)
		send(t, conn, pack(t, query(fmt.Sprintf("n%d.example.org", i), dns.TypeA)))
		conns = append(conns, conn)
		<-arrived
	}
	giant := pack(t, withEDNS(query("a.example.org", dns.TypeA), 1232, &dns.EDNS0_LOCAL{Code: 65099, Data: make([]byte, 65475)}))
	got := unpack(t, exchangeWire(t, "udp", addr, giant))
	if wantGood(t, got); t.Failed() {
		t.Log(ede(got))
	}
	close(release)
	for _, conn := range conns {
		if got := unpack(t, receive(t, conn)); got.Rcode != dns.RcodeSuccess {
			t.Fatalf("another query got %v", got)
		}
	}
	if s.own.peer(up.addr).isDead() {
		t.Error("the server counts as dead")
	}
}
