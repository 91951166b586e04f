// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// reflector is an end of the chain that answers with the query.
type reflector struct{}

func (reflector) Exchange(_ context.Context, req *Request) (*Response, error) {
	wire := outgoing(nil, req, 7, req.edns)
	wire[2] |= 0x80
	m, err := parseMessage(wire)
	if err != nil {
		return nil, err
	}
	return &Response{msg: m, origin: "reflector"}, nil
}

// FuzzAnswer gives a server any octets: no panic, and every answer is well formed,
// has the ID, is a response, and is no longer than the client takes.
func FuzzAnswer(f *testing.F) {
	for _, m := range []*dns.Msg{
		query("web.example.org", dns.TypeA), query("x.Cluster2.example.org", dns.TypeA), query("www.example.org.svc.cluster.local", dns.TypeANY), query("a.b.example", dns.TypeAXFR),
		withEDNS(query("_http._tcp.example.org", dns.TypeSRV), 512, &dns.EDNS0_LOCAL{Code: optOrigin}),
		withEDNS(query("x.apps.example.org", dns.TypeA), 1, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}),
	} {
		wire := pack(f, m)
		f.Add(wire, false)
		f.Add(append(wire, 0xc0, 0x0c), true)
	}
	f.Add(raw(f, "1234 2800 0001 0001 0001 0000 076578616d706c65 036f7267 00 0006 0001 0161 c00c 00ff 00fe 00000000 0000 0161 c00c 0001 0001 0000003c 0004 c0000201"), false)
	s, err := New(Config{Search: []string{"svc.cluster.local"}})
	if err != nil {
		f.Fatal(err)
	}
	s.SetTable(table(f, storyTable))
	s.chain = &tableStage{table: s.table.Load, next: reflector{}}
	f.Fuzz(func(t *testing.T, wire []byte, tcp bool) {
		if len(wire) > maxWire {
			return
		}
		before := bytes.Clone(wire)
		in := packet{wire: wire, client: netip.MustParseAddrPort("127.0.0.1:5353"), local: netip.MustParseAddr("127.0.0.1"), tcp: tcp}
		answers := 0
		err := s.own.answer(t.Context(), in, func(out []byte) error {
			answers++
			checkAnswer(t, wire, out, tcp)
			return nil
		})
		if err != nil {
			t.Errorf("answer: %v", err)
		}
		if !bytes.Equal(before, wire) {
			t.Error("the query was changed")
		}
		if want := len(wire) >= headerLen && wire[2]&0x80 == 0; (answers == 1) != want {
			t.Errorf("%d answers", answers)
		}
	})
}

func checkAnswer(t *testing.T, query, out []byte, tcp bool) {
	m, err := parseMessage(out)
	if err != nil {
		t.Fatalf("answer %x: %v", out, err)
	}
	if len(m.wire) != len(out) {
		t.Errorf("%d octets behind the answer", len(out)-len(m.wire))
	}
	if m.id() != binary.BigEndian.Uint16(query) || !m.isResponse() {
		t.Errorf("answer %x", out)
	}
	limit := maxWire
	if q, err := parseMessage(query); err == nil && !tcp {
		req := &Request{msg: q}
		req.edns, _ = q.edns()
		// A question alone may be longer than any limit.
		limit = max(req.limit(), q.question+optFixed)
	}
	if len(out) > limit {
		t.Errorf("%d octets, the client takes %d", len(out), limit)
	}
}

// FuzzWithoutOPT compares with the DNS package: taking an OPT record out changes no
// other record.
func FuzzWithoutOPT(f *testing.F) {
	m := withEDNS(query("a.example.org", dns.TypeA), 1232, &dns.EDNS0_LOCAL{Code: 65100, Data: []byte("data")})
	rr, err := dns.NewRR("b.example.org. 5 IN MX 10 mail.b.example.org.")
	if err != nil {
		f.Fatal(err)
	}
	m.Extra = append(m.Extra, rr, rr)
	m.Compress = true
	f.Add(pack(f, m))
	f.Fuzz(func(t *testing.T, wire []byte) {
		parsed, err := parseMessage(wire)
		if err != nil {
			return
		}
		var before, after dns.Msg
		if before.Unpack(parsed.wire) != nil {
			return
		}
		if parsed.opt >= 0 {
			at := parsed.opt - parsed.count(countAN) - parsed.count(countNS)
			before.Extra = append(before.Extra[:at:at], before.Extra[at+1:]...)
		}
		out := parsed.withoutOPT(0)
		again, err := parseMessage(out)
		if err != nil || len(again.wire) != len(out) {
			t.Fatalf("%x became %x: %v", wire, out, err)
		}
		if after.Unpack(out) != nil || parsed.opt < 0 {
			return
		}
		for i, rr := range before.Extra {
			_, known := namesIn(rr.Header().Rrtype)
			if (known > 0 || rr.Header().Rrtype == dns.TypeA) && rr.String() != after.Extra[i].String() {
				t.Errorf("%s became %s", rr, after.Extra[i])
			}
		}
	})
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte("192.0.2.1 a.example.org b # c\n2001:db8::1\ta.example.org.\n"))
	f.Add([]byte("0.0.0.0 0.0.0.0\n::1 localhost"))
	f.Fuzz(func(t *testing.T, data []byte) { parseAnything(t, Source{"f", data, FormatHosts}) })
}

func FuzzYAML(f *testing.F) {
	f.Add([]byte(storyTable))
	f.Add([]byte("names: {a: &x [192.0.2.1], b: *x, ? [c] : {cname: d}}\nttl: 1\nttl: 2\n--- 3"))
	f.Fuzz(func(t *testing.T, data []byte) { parseAnything(t, Source{"f", data, FormatYAML}) })
}

// parseAnything holds for every file: a table or an error with a place, and every
// name of the table can be found and packed.
func parseAnything(t *testing.T, src Source) {
	table, err := ParseTable(src)
	if err != nil {
		if !bytes.HasPrefix([]byte(err.Error()), []byte("f:")) {
			t.Errorf("error without a place: %v", err)
		}
		return
	}
	for _, e := range given(table) {
		if table.find([]byte(e.name)).entry != e {
			t.Errorf("%s is not found", e.name)
		}
		msg := new(dns.Msg)
		msg.Answer = rrs(e)
		if _, err := msg.Pack(); err != nil {
			t.Errorf("%s: %v", e.name, err)
		}
	}
}

// FuzzReply is an upstream that answers anything: what the client gets is well formed,
// has its ID and is no longer than it takes, now, from the cache, and when it is stale;
// also where it becomes the answer for a name below.
func FuzzReply(f *testing.F) {
	q := withEDNS(query("a.example.org", dns.TypeA), 1232)
	asked := pack(f, q)
	nx := authority(f, dns.RcodeNameError, "example.org. 60 IN SOA a. b. 1 1 1 1 60")
	for _, wire := range [][]byte{
		respond(f, asked, nil, "a.example.org. 60 IN CNAME b.example.org.", "b.example.org. 30 IN A 192.0.2.1"),
		respond(f, asked, nx),
		respond(f, asked, func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure; m.Question = nil }),
		respond(f, asked, func(m *dns.Msg) { m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: 22, ExtraText: "text"}} }),
	} {
		f.Add(wire)
	}
	s := before(f, Config{}, nil)
	f.Fuzz(func(t *testing.T, wire []byte) {
		req, err := newRequest(packet{wire: asked, local: loopback})
		if err != nil {
			t.Fatal(err)
		}
		req.scope = s.own
		head, err := parseQuestion(wire)
		if err != nil || !isReply(head, req, head.id()) {
			return
		}
		m, err := parseMessage(wire)
		if err != nil {
			m = head.headOnly()
		}
		if opt, err := m.edns(); err == nil && opt != nil {
			data, ok := m.option(dns.EDNS0COOKIE)
			if want, has := opt.option(dns.EDNS0COOKIE); ok != has || !bytes.Equal(data, want.data) {
				t.Errorf("%x: cookie %x, %t; want %x, %t", wire, data, ok, want.data, has)
			}
		}
		res := &Response{msg: m.withQuestion(req)}
		check := func(res *Response, err error, req *Request) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			checkAnswer(t, req.msg.wire, fit(nil, req, res.msg, "origin"), false)
		}
		check(res, nil, req)
		now := time.Now()
		k := keep(res, now)
		if k == nil {
			return
		}
		below := &Request{scope: req.scope, msg: req.msg, edns: req.edns}
		if k.kind == noName && len(k.wire) <= maxCut {
			m, err := parseMessage(pack(t, withEDNS(query("x.y.a.example.org", dns.TypeMX), 512)))
			if err != nil {
				t.Fatal(err)
			}
			below.msg = m
			below.edns, _ = m.edns()
		}
		for _, r := range []*Request{req, below} {
			fresh, err := k.response(r, now.Add(time.Second))
			check(fresh, err, r)
			stale, err := k.stale(r, now.Add(time.Hour), "why")
			check(stale, err, r)
		}
	})
}
