// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// echo answers with the query itself as a response, octet for octet, and a tail of
// records in the answer section.
func echo(tail ...byte) script {
	return func(reply func([]byte), q asked) {
		w := bytes.Clone(q.wire)
		w[2] |= 0x80
		if len(tail) > 0 {
			w = append(w, tail...)
			setCount(w, countAN, 1)
		}
		reply(w)
	}
}

// What has no EDNS goes on and comes back bit for bit, but for the ID on the way:
// RFC 5625 section 4, RFC 3597 for types and classes nobody knows.
func TestForwardsBitForBit(t *testing.T) {
	for _, tc := range []struct{ name, wire string }{
		{"plain", "1234 0100 0001 0000 0000 0000 " + questionHex},
		{"no RD", "1234 0000 0001 0000 0000 0000 " + questionHex},
		{"CD, AD, Z", "1234 0170 0001 0000 0000 0000 " + questionHex},
		{"case of the question", "1234 0100 0001 0000 0000 0000 0141 076558616d506c65 034f7267 00 0001 0001"},
		{"TYPE65280", "1234 0100 0001 0000 0000 0000 0161 00 ff00 0001"},
		{"class CHAOS", "1234 0100 0001 0000 0000 0000 0161 00 0010 0003"},
		{"class ANY", "1234 0100 0001 0000 0000 0000 0161 00 0001 00ff"},
		{"octets in a label", "1234 0100 0001 0000 0000 0000 04002e5cff 00 0001 0001"},
		{"the root", "1234 0100 0001 0000 0000 0000 00 0002 0001"},
		{"STATUS", "1234 1000 0001 0000 0000 0000 " + questionHex},
		{"opcode 7", "1234 3800 0001 0000 0000 0000 " + questionHex},
		{"opcode 15 without question", "1234 7800 0000 0000 0000 0000"},
		{"NOTIFY with an answer", "1234 2400 0001 0001 0000 0000 " + questionHex + "c00c 0006 0001 00000005 0016 c00c c00c 00000001 00000002 00000003 00000004 0000"},
		{"UPDATE", "1234 2800 0001 0001 0001 0000 " + "076578616d706c65 036f7267 00 0006 0001" +
			"0161 c00c 00ff 00fe 00000000 0000" + "0161 c00c 0001 0001 0000003c 0004 c0000201"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := upstream(t, echo(), echo())
			_, addr := start(t, quick(up.addr))
			wire := raw(t, tc.wire)
			for _, network := range []string{"udp", "tcp"} {
				got := exchangeWire(t, network, addr, wire)
				want := bytes.Clone(wire)
				want[2] |= 0x80
				if !bytes.Equal(got, want) {
					t.Errorf("%s: answer\n%x, want\n%x", network, got, want)
				}
			}
			for _, q := range up.queries() {
				setID(q.wire, 0x1234)
				if !bytes.Equal(q.wire, wire) {
					t.Errorf("%s: the upstream got\n%x, want\n%x", q.network, q.wire, wire)
				}
			}
		})
	}
}

// Whatever is no lookup in the table reaches the server that the client meant, names of the
// table and special names included: RFC 5625 section 4, RFC 1996 section 3.4, RFC 2136
// section 6, RFC 9460 section 8.
func TestReachesTheServerMeant(t *testing.T) {
	answer := says(t, nil)
	end := &oracle{tb: t, answer: func(req *Request) (*Response, error) {
		if req.msg.opcode() == dns.OpcodeQuery {
			return answer(req)
		}
		return reflector{}.Exchange(t.Context(), req)
	}}
	s := before(t, Config{CacheBytes: -1, Origin: func(local netip.Addr) (netip.Addr, bool) { return local.Next(), true }}, end)
	s.SetTable(table(t, "authority: [t.example.org]\nnames: {a.t.example.org: [192.0.2.9]}"))
	chaos := query("a.t.example.org", dns.TypeA)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	for name, m := range map[string]*dns.Msg{
		"TYPE65280": query("a.example.org", 65280), "SVCB": query("_dns.example.org", dns.TypeSVCB), "HTTPS": query("a.example.org", dns.TypeHTTPS),
		"DS": query("a.example.org", dns.TypeDS), "class CHAOS": chaos,
		"NOTIFY": new(dns.Msg).SetNotify("t.example.org."), "NOTIFY of a name": new(dns.Msg).SetNotify("a.t.example.org."),
		"UPDATE": new(dns.Msg).SetUpdate("t.example.org."), "UPDATE of a special zone": new(dns.Msg).SetUpdate("invalid."),
		"STATUS": {MsgHdr: dns.MsgHdr{Opcode: dns.OpcodeStatus}, Question: query("a.t.example.org", dns.TypeA).Question},
	} {
		for _, local := range []string{"127.53.0.1", "127.53.0.7"} {
			in, n := packetOf(t, m), end.asked()
			in.local = netip.MustParseAddr(local)
			askServer(t, s, in)
			if end.asked() != n+1 || end.seen[n].upstreams[0] != plain(netip.AddrPortFrom(in.local.Next(), 53)) {
				t.Errorf("%s at %s: %d servers asked", name, local, end.asked()-n)
			}
		}
	}
}

// The flags and the rcode of an answer are its server's, also out of the cache: RFC 5625
// section 4.1, RFC 6840 section 5.8.
func TestAnswerKeepsFlags(t *testing.T) {
	const z = 1 << 6
	for _, flags := range []uint16{0, bitAA, bitRA, bitAD | bitRA, bitAA | bitRA | bitAD | bitCD | z, bitRA | dns.RcodeNameError, bitRA | dns.RcodeNotImplemented, dns.RcodeRefused, 11} {
		answer := func(req *Request) (*Response, error) {
			res, err := says(t, authority(t, 0, orgSOA+"30"))(req)
			if err == nil {
				setFlags(res.msg.wire, res.msg.flags()&(bitQR|bitRD)|flags)
			}
			return res, err
		}
		bubble(t, Config{}, answer, func(t *testing.T, s *Server, end *oracle) {
			for i := range 2 {
				in := packetOf(t, query("a.example.org", dns.TypeA))
				err := s.own.answer(t.Context(), in, func(wire []byte) error {
					if got := binary.BigEndian.Uint16(wire[2:]); got != bitQR|bitRD|flags && flags != dns.RcodeRefused || got&0xf != flags&0xf {
						t.Errorf("answer %d has flags %04x, want %04x", i, got, bitQR|bitRD|flags)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
			if kept := flags&0xf == dns.RcodeSuccess || flags&0xf == dns.RcodeNameError || flags&0xf == dns.RcodeRefused; kept != (end.asked() == 1) {
				t.Errorf("flags %04x: asked %d times", flags, end.asked())
			}
		})
	}
}

// RDATA that nobody knows is not touched, though it looks like a pointer
// (RFC 3597 section 4).
func TestUnknownRDATA(t *testing.T) {
	tail := raw(t, "c00c ff00 0001 00000005 0006 c00c c00c ffff")
	up := upstream(t, echo(tail...), nil)
	_, addr := start(t, quick(up.addr))
	got := exchangeWire(t, "udp", addr, raw(t, "1234 0100 0001 0000 0000 0000 0161 00 ff00 0001"))
	if !bytes.HasSuffix(got, tail) {
		t.Errorf("got %x", got)
	}
}

// EDNS is hop by hop, what it carries passes: RFC 6891 section 6.1.1, RFC 7873
// section 5.1 (cookies), RFC 7828 (keepalive), RFC 8914 (extended errors).
func TestEDNSPerHop(t *testing.T) {
	local := func(code uint16, data string) dns.EDNS0 { return &dns.EDNS0_LOCAL{Code: code, Data: []byte(data)} }
	up := upstream(t, func(reply func([]byte), q asked) {
		reply(respond(t, q.wire, func(m *dns.Msg) {
			opt := m.IsEdns0()
			opt.SetDo()
			opt.Hdr.Ttl |= 0x0001 // a flag nobody has defined yet
			opt.Option = []dns.EDNS0{
				&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer, ExtraText: "old"},
				&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookieOf(t, q)[:16] + "090a0b0c0d0e0f10"},
				local(65100, "back"),
			}
		}, good))
	}, nil)
	cfg := quick(up.addr)
	cfg.Resend = patience // a second query has no cookie
	_, addr := start(t, cfg)
	q := withEDNS(query("a.example.org", dns.TypeA), 4096,
		local(65099, "there"), local(optOrigin, ""),
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{192, 0, 2, 0}},
		&dns.EDNS0_PADDING{Padding: make([]byte, 8)})
	q.IsEdns0().SetDo()
	got := exchange(t, "udp", addr, q)

	there := unpack(t, up.queries()[0].wire).IsEdns0()
	if codes := optionCodes(there); !slices.Equal(codes, []uint16{65099, dns.EDNS0SUBNET, dns.EDNS0COOKIE}) || cookieOf(t, up.queries()[0]) == "0102030405060708" || !there.Do() || there.UDPSize() != udpSize {
		t.Errorf("to the upstream: %v", there)
	}
	back := got.IsEdns0()
	if codes := optionCodes(back); !slices.Equal(codes, []uint16{dns.EDNS0EDE, 65100, optOrigin}) || !back.Do() || back.UDPSize() != udpSize {
		t.Errorf("to the client: %v", back)
	}
	if back.Hdr.Ttl&1 == 0 {
		t.Errorf("EDNS flags came back as %x", back.Hdr.Ttl)
	}
}

func optionCodes(opt *dns.OPT) []uint16 {
	var codes []uint16
	for _, o := range opt.Option {
		codes = append(codes, o.Option())
	}
	return codes
}

// An OPT record is in the reply if and only if one is in the query
// (RFC 6891 section 6.1.1), whatever the answer's source and the upstream do.
func TestOPTIffAsked(t *testing.T) {
	up := upstream(t, with(t, func(m *dns.Msg) {
		if m.IsEdns0() == nil {
			m.SetEdns0(1232, false)
			return
		}
		m.Extra = nil
	}, good), nil)
	s, addr := start(t, quick(up.addr))
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.9]}"))
	for _, name := range []string{"a.example.org", "t.example.org"} {
		if got := exchange(t, "udp", addr, query(name, dns.TypeA)); got.IsEdns0() != nil {
			t.Errorf("%s: OPT without being asked", name)
		}
		if got := exchange(t, "udp", addr, withEDNS(query(name, dns.TypeA), 1232)); got.IsEdns0() == nil {
			t.Errorf("%s: no OPT", name)
		}
	}
}

// Upper bits of an rcode pass.
func TestExtendedRcode(t *testing.T) {
	up := upstream(t, with(t, func(m *dns.Msg) { m.Rcode = dns.RcodeBadCookie }), nil)
	_, addr := start(t, quick(up.addr))
	if got := exchange(t, "udp", addr, withEDNS(query("a.example.org", dns.TypeA), 1232)); got.Rcode != dns.RcodeBadCookie {
		t.Errorf("got %s", dns.RcodeToString[got.Rcode])
	}
}

// A signed message keeps all but its ID, and its signature holds at both ends
// (RFC 5625 section 4.5, RFC 8945), also for a name of the table.
func TestTSIG(t *testing.T) {
	const key, secret = "key.example.org.", "c2VjcmV0IG9mIGV4YW1wbGUub3Jn"
	up := upstream(t, func(reply func([]byte), q asked) {
		signed := bytes.Clone(q.wire)
		tsig := unpack(t, signed).IsTsig()
		if tsig == nil {
			return // the question with which a resolver looks for loops, after some silence
		}
		mac := tsig.MAC
		// The ID on the wire is the hop's; the original is in the TSIG record.
		if err := dns.TsigVerify(signed, secret, "", false); err != nil {
			t.Errorf("at the upstream: %v", err)
		}
		m := new(dns.Msg)
		m.SetReply(unpack(t, q.wire))
		m.Extra = nil
		m.SetTsig(key, dns.HmacSHA256, 300, time.Now().Unix())
		w, _, err := dns.TsigGenerate(m, secret, mac, false)
		if err != nil {
			t.Errorf("sign: %v", err)
		}
		reply(w)
	}, nil)
	s, addr := start(t, quick(up.addr))
	s.SetTable(table(t, "names: {a.example.org: [192.0.2.9]}"))
	q := withEDNS(query("a.example.org", dns.TypeA), 4000, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"})
	q.SetTsig(key, dns.HmacSHA256, 300, time.Now().Unix())
	wire, mac, err := dns.TsigGenerate(q, secret, "", false)
	if err != nil {
		t.Fatal(err)
	}
	got := exchangeWire(t, "udp", addr, wire)
	if err := dns.TsigVerify(bytes.Clone(got), secret, mac, false); err != nil {
		t.Errorf("at the client: %v", err)
	}
	if binary.BigEndian.Uint16(got) != q.Id {
		t.Error("ID of another hop")
	}
}

// An OPT record in the middle is taken out without harm to the pointers behind it.
func TestOPTInTheMiddle(t *testing.T) {
	m := query("a.example.org", dns.TypeA)
	m.Compress = true
	target := "mail.deep.example.net."
	for _, s := range []string{"x.deep.example.net. 5 IN A 192.0.2.1", "a.example.org. 5 IN NS y.deep.example.net.",
		"a.example.org. 5 IN MX 10 " + target, target + " 5 IN SOA " + target + " root." + target + " 1 2 3 4 5"} {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		m.Extra = append(m.Extra, rr)
	}
	want := lines(m.Extra)
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT, Class: 1232},
		Option: []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65100, Data: make([]byte, 37)}}}
	for at := range len(m.Extra) + 1 {
		in := m.Copy()
		in.Extra = slices.Insert(in.Extra, at, dns.RR(opt))
		parsed, err := parseMessage(pack(t, in))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, lines(unpack(t, parsed.withoutOPT(0)).Extra)); diff != "" {
			t.Errorf("OPT at %d (-want +got):\n%s", at, diff)
		}
	}
}

// What is cut is cut at RRsets, and TC says so where it matters: RFC 2181
// section 9, RFC 9471 for the glue of a referral.
func TestCut(t *testing.T) {
	rr := func(s string) dns.RR {
		r, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	a1, a2, b1 := rr("a.example.org. 5 IN A 192.0.2.1"), rr("a.example.org. 5 IN A 192.0.2.2"), rr("b.example.org. 5 IN A 192.0.2.3")
	ns, glue := rr("example.org. 5 IN NS b.example.org."), rr("b.example.org. 5 IN A 192.0.2.3")
	alias, proof := rr("a.example.org. 5 IN CNAME a.sub.example.org."), rr("example.org. 5 IN NSEC b.example.org. NS")
	for _, tc := range []struct {
		name                  string
		answer, auth, extra   []dns.RR
		spare                 int // octets less than the whole message has
		wantAnswer, wantExtra int
		tc                    bool
	}{
		{"whole", []dns.RR{a1, a2}, nil, nil, 0, 2, 0, false},
		{"half an RRset is none", []dns.RR{a1, a2}, nil, nil, 1, 0, 0, true},
		{"the RRsets before stay", []dns.RR{a1, a2, b1}, nil, nil, 1, 2, 0, true},
		{"additional is optional", []dns.RR{a1}, nil, []dns.RR{b1}, 1, 1, 0, false},
		{"so are the servers of an answer", []dns.RR{a1}, []dns.RR{ns}, nil, 1, 1, 0, false},
		{"a proof behind them is not", []dns.RR{a1}, []dns.RR{ns, proof}, nil, len(pack(t, &dns.Msg{Ns: []dns.RR{ns, proof}})) - headerLen, 1, 0, true},
		{"nor is where an alias goes on", []dns.RR{alias}, []dns.RR{ns}, nil, 1, 1, 0, true},
		{"nor is glue", nil, []dns.RR{ns}, []dns.RR{glue}, 1, 0, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := query("a.example.org", dns.TypeA)
			m.Response, m.Answer, m.Ns, m.Extra = true, tc.answer, tc.auth, tc.extra
			parsed, err := parseMessage(pack(t, m))
			if err != nil {
				t.Fatal(err)
			}
			wire := parsed.withoutOPT(0)
			if tc.spare > 0 {
				wire = parsed.cut(wire, len(wire)-tc.spare)
			}
			got := unpack(t, wire)
			if len(got.Answer) != tc.wantAnswer || len(got.Extra) != tc.wantExtra || got.Truncated != tc.tc {
				t.Errorf("got %v", got)
			}
		})
	}
}

// The origin is told to who asks, and to nobody else.
func TestQuery(t *testing.T) {
	up := upstream(t, with(t, nil, good), with(t, nil, good))
	s, addr := start(t, quick(up.addr))
	s.SetTable(table(t, storyTable))
	for _, tc := range []struct {
		name, qtype string
		tcp         bool
		want        Answer
	}{
		{"web.example.org", "a", false, Answer{Rcode: "NOERROR", Flags: "qr aa rd ra", Network: "udp", Origin: "table names.yaml:6",
			Records: []string{"web.example.org.\t20\tIN\tA\t192.0.2.1", "web.example.org.\t20\tIN\tA\t192.0.2.2"}}},
		{"www.example.org", "AAAA", true, Answer{Rcode: "NOERROR", Flags: "qr aa rd ra", Network: "tcp", Origin: "table names.yaml:5, names.yaml:6",
			Records:   []string{"www.example.org.\t60\tIN\tCNAME\tweb.example.org."},
			Authority: []string{"web.example.org.\t20\tIN\tSOA\tdnsteer.invalid. hostmaster.dnsteer.invalid. 1 3600 600 86400 20"}}},
		{"192.0.2.21", "PTR", false, Answer{Rcode: "NOERROR", Flags: "qr aa rd ra", Network: "udp", Origin: "table names.yaml:12",
			Records: []string{"21.2.0.192.in-addr.arpa.\t20\tIN\tPTR\tdeep.blue.apps.example.org."}}},
		{"web.example.org", "TYPE65280", false, Answer{Rcode: "NOERROR", Flags: "qr aa rd ra", Network: "udp", Origin: "table names.yaml:6",
			Authority: []string{"web.example.org.\t20\tIN\tSOA\tdnsteer.invalid. hostmaster.dnsteer.invalid. 1 3600 600 86400 20"}}},
	} {
		got, err := Query(t.Context(), addr, tc.name, tc.qtype, tc.tcp)
		if err != nil {
			t.Errorf("%s %s: %v", tc.name, tc.qtype, err)
			continue
		}
		if diff := cmp.Diff(tc.want, *got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", tc.name, tc.qtype, diff)
		}
	}
	got, err := Query(t.Context(), addr, "a.example.org", "A", false)
	if err != nil {
		t.Fatal(err)
	}
	if prefix := "upstream " + up.addr.String() + " over udp in "; len(got.Origin) <= len(prefix) || got.Origin[:len(prefix)] != prefix {
		t.Errorf("origin %q", got.Origin)
	}
	for _, q := range up.queries() {
		if opt := unpack(t, q.wire).IsEdns0(); opt != nil && slices.Contains(optionCodes(opt), optOrigin) {
			t.Errorf("the question for the origin went on: %v", opt)
		}
	}
}

func TestQueryErrors(t *testing.T) {
	down := closedPort(t)
	for _, tc := range []struct{ name, qtype, want string }{
		{"a.example.org", "NOPE", `"NOPE" is not a record type`},
		{"a..b", "A", `"a..b" is not a domain name`},
		{"", "A", `"" is not a domain name`},
	} {
		if _, err := Query(t.Context(), down, tc.name, tc.qtype, false); err == nil || err.Error() != tc.want {
			t.Errorf("%s %s: %v", tc.name, tc.qtype, err)
		}
	}
	if _, err := Query(t.Context(), down, "a.example.org", "A", false); err == nil {
		t.Error("nobody listens, and no error")
	}
	_, addr := start(t, quick(down))
	got, err := Query(t.Context(), addr, "a.example.org", "A", false)
	if err != nil {
		t.Fatal(err)
	}
	if want := "Network Error: upstream " + down.String() + ": connection refused"; got.Error != want || got.Rcode != "SERVFAIL" {
		t.Errorf("got %+v, want %s", got, want)
	}
}

// A truncated answer is fetched whole.
func TestQueryTruncated(t *testing.T) {
	up := upstream(t, with(t, func(m *dns.Msg) { m.Truncated = true; m.Answer = nil }), with(t, nil, bigTXT(15)...))
	_, addr := start(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	got, err := Query(t.Context(), addr, "a.example.org", "TXT", false)
	if err != nil {
		t.Fatal(err)
	}
	if got.Network != "tcp" || len(got.Records) != 15 {
		t.Errorf("%d records over %s", len(got.Records), got.Network)
	}
}
