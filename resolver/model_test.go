// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// model answers from a table as the RFCs have it, record by record, without a thought of
// what that costs. It is nil for what the table alone cannot answer.
type model struct {
	*dns.Msg
	table *Table
	st    *settings
	name  string // owner of the next record
}

func modelAnswer(t *Table, st *settings, q *dns.Msg) *dns.Msg {
	m := &model{Msg: new(dns.Msg), table: t, st: st, name: q.Question[0].Name}
	m.MsgHdr = dns.MsgHdr{Id: q.Id, Response: true, Authoritative: true, RecursionAvailable: true,
		RecursionDesired: q.RecursionDesired, CheckingDisabled: q.CheckingDisabled}
	m.Question = q.Question
	if !m.answer(q.Question[0].Qtype) {
		return nil
	}
	return m.Msg
}

func (m *model) answer(qtype uint16) bool {
	name := fromRR(strings.ToLower(m.name))
	at := m.find(name)
	for i := 0; i < len(m.st.search) && !at.ok(); i++ {
		short, ok := name.without(m.st.search[i])
		if !ok {
			continue
		}
		if found := m.find(short); found.ok() {
			at = found
			m.Answer = append(m.Answer, &dns.CNAME{Hdr: m.header(dns.TypeCNAME, at.ttl()), Target: short.String()})
			m.name = short.String()
		}
	}
	for range maxAliases {
		if m.st.isDenied(at, []byte(fromRR(strings.ToLower(m.name)))) {
			return m.deny(at, qtype)
		}
		if !at.ok() {
			return false
		}
		if qtype == dns.TypeCNAME && len(m.Answer) > 0 {
			return true
		}
		if rrs := m.records(at, qtype); len(rrs) > 0 {
			m.Answer = append(m.Answer, rrs...)
			m.Extra = m.additional()
			return true
		}
		target, ok := at.alias()
		if !ok {
			m.Ns = []dns.RR{m.soa(at)}
			return true
		}
		m.Answer = append(m.Answer, m.records(at, dns.TypeCNAME)...)
		m.name = target.String()
		at = m.find(target)
	}
	return false
}

func (m *model) find(name wireName) hit { return m.table.find([]byte(name)) }

func (m *model) header(qtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: m.name, Rrtype: qtype, Class: dns.ClassINET, Ttl: ttl}
}

func (m *model) records(at hit, qtype uint16) (rrs []dns.RR) {
	if at.entry != nil {
		for kind, rdata := range at.entry.each {
			if qtype == dns.TypeANY || qtype == typeOf(kind) {
				rrs = append(rrs, newRR(m.name, kind, rdata, at.ttl()))
			}
		}
	}
	if qtype == dns.TypeANY || qtype == dns.TypePTR {
		for _, p := range pointersOf(at.reverse) {
			rrs = append(rrs, &dns.PTR{Hdr: m.header(dns.TypePTR, p.ttl), Ptr: p.name.String()})
		}
	}
	return rrs
}

func (m *model) additional() (rrs []dns.RR) {
	done := make(map[string]bool)
	for _, rr := range m.Answer {
		srv, ok := rr.(*dns.SRV)
		if !ok || done[srv.Target] {
			continue
		}
		done[srv.Target] = true
		m.name = srv.Target
		at := m.find(fromRR(srv.Target))
		rrs = append(append(rrs, m.records(at, dns.TypeA)...), m.records(at, dns.TypeAAAA)...)
	}
	return rrs
}

func (m *model) soa(at hit) dns.RR {
	ttl, owner := uint32(defaultTTL), m.name
	if at.ok() {
		ttl = min(ttl, at.ttl())
	}
	if x := m.table.apexes.find([]byte(fromRR(strings.ToLower(m.name)))); x != nil {
		ttl = min(ttl, x.ttl)
		owner = owner[len(owner)-len(x.name.String()):]
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  "dnsteer.invalid.", Mbox: "hostmaster.dnsteer.invalid.",
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}

func (m *model) deny(at hit, qtype uint16) bool {
	soa := m.soa(at)
	switch {
	case soa.Header().Name == m.name && (qtype == dns.TypeSOA || qtype == dns.TypeANY):
		m.Answer = append(m.Answer, soa)
		return true
	case !at.exists:
		m.Rcode = dns.RcodeNameError
	}
	m.Ns = []dns.RR{soa}
	return true
}

// someNames are names that meet each other often.
func someNames(r *rand.Rand) string {
	labels := []string{"a", "b", "web", "x-1", "example", "org"}
	parts := make([]string, 1+r.IntN(4))
	for i := range parts {
		parts[i] = labels[r.IntN(len(labels))]
	}
	return strings.Join(parts, ".")
}

// someTable has names of all kinds.
func someTable(t *testing.T, r *rand.Rand) *Table {
	all := NewNames()
	l := all.AddLayer("some")
	from := l.Origin(func() string { return "some" })
	var names []Name
	addr := func() netip.Addr {
		if r.IntN(3) == 0 {
			return netip.AddrFrom16([16]byte{0x20, 1, 15: byte(r.IntN(6))})
		}
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(6))})
	}
	for range 1 + r.IntN(25) {
		n := Name{Name: someNames(r), From: from, TTL: uint32(r.IntN(100))}
		if r.IntN(8) == 0 {
			n.Name = "*." + n.Name
		}
		switch r.IntN(4) {
		case 0:
			n.CNAME = someNames(r)
		default:
			for range 1 + r.IntN(4) {
				switch r.IntN(4) {
				case 0:
					n.SRV = append(n.SRV, SRV{uint16(r.IntN(3)), 1, 80, someNames(r)})
				case 1:
					n.TXT = append(n.TXT, strings.Repeat("t", r.IntN(300)))
				default:
					n.Addrs = append(n.Addrs, addr())
				}
			}
			if r.IntN(2) == 0 {
				n.Pointers = n.Addrs
			}
		}
		names = append(names, n)
	}
	if err := l.Apply(slices.Values(names)); err != nil {
		t.Fatal(err)
	}
	for range r.IntN(3) {
		if err := l.SetAuthority(Authority{Suffix: someNames(r), TTL: uint32(r.IntN(60)), From: from}); err != nil {
			t.Fatal(err)
		}
	}
	return all.Table()
}

// Whatever table and question: what is written is what the model says, with another
// address first in each turn.
func TestAnswersAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := before(t, Config{}, nil)
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeSRV, dns.TypeCNAME, dns.TypePTR, dns.TypeSOA, dns.TypeANY, dns.TypeMX}
	var a answer
	answered := 0
	for range 400 {
		table := someTable(t, r)
		s.SetSearch([]string{someNames(r), someNames(r)}[:r.IntN(3)])
		st := s.own.settings.Load()
		for range 100 {
			name := someNames(r)
			switch r.IntN(6) {
			case 0:
				name, _ = dns.ReverseAddr(netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(6))}).String())
			case 1:
				name = strings.ToUpper(name)
			}
			q := query(name, types[r.IntN(len(types))])
			q.CheckingDisabled, q.RecursionDesired = r.IntN(2) == 0, r.IntN(2) == 0
			wire := pack(t, q)
			m, err := parseMessage(wire)
			if err != nil {
				t.Fatal(err)
			}
			front := bytes.Repeat([]byte{'x'}, r.IntN(4))
			a.turn = uint32(r.Uint64()) * uint32(r.IntN(2))
			want := modelAnswer(table, st, q)
			if got := a.compose(front, wire, []byte(m.name), table, st); (got == ours) != (want != nil) {
				t.Fatalf("%s: extent %d, want %v", q.Question[0].String(), got, want)
			}
			if want == nil {
				continue
			}
			answered++
			got := unpack(t, a.message())
			for _, m := range []*dns.Msg{got, want} {
				if a.turn != 0 {
					turnedBack(m.Extra)
				}
				if a.turn != 0 && q.Question[0].Qtype != dns.TypeANY {
					turnedBack(m.Answer)
				}
			}
			if diff := cmp.Diff(want.String(), got.String()); diff != "" {
				t.Fatalf("%s, turn %d (-want +got):\n%s", q.Question[0].String(), a.turn, diff)
			}
			if !bytes.HasPrefix(a.out, front) {
				t.Fatal("what stood before was changed")
			}
		}
	}
	if answered < 1000 {
		t.Errorf("the tables answered %d questions", answered)
	}
}

// An answer as large as one can be, with more addresses of SRV targets than have room (RFC
// 1035 section 4.1.4):
// names are still where pointers can point at.
func TestLargeAnswersOfTheTable(t *testing.T) {
	all := NewNames()
	l := all.AddLayer("large")
	from := l.Origin(func() string { return "large" })
	service := Name{Name: "_http._tcp.large.example.org", From: from}
	var names []Name
	for i := range 800 {
		pod := fmt.Sprintf("pod-%d.large.example.org", i)
		service.SRV = append(service.SRV, SRV{Port: 80, Target: pod})
		names = append(names, Name{Name: pod, From: from, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)})}})
	}
	if err := l.Apply(slices.Values(append(names, service))); err != nil {
		t.Fatal(err)
	}
	s := before(t, Config{}, nil)
	wire := pack(t, query(service.Name, dns.TypeSRV))
	m, err := parseMessage(wire)
	if err != nil {
		t.Fatal(err)
	}
	for _, turn := range []uint32{0, 1 << 31} {
		a := answer{turn: turn}
		if got := a.compose(nil, wire, []byte(m.name), all.Table(), s.own.settings.Load()); got != ours {
			t.Fatalf("extent %d", got)
		}
		got := unpack(t, a.message())
		if len(got.Answer) != len(service.SRV) || len(a.message()) > maxWire || len(a.message()) < maxWire-200 {
			t.Errorf("%d records, %d more, %d octets", len(got.Answer), len(got.Extra), len(a.message()))
		}
		for i, rr := range got.Extra {
			pod := got.Answer[i/2].(*dns.SRV).Target
			if addr := rr.(*dns.A); addr.Hdr.Name != pod || int(addr.A[2])<<8+int(addr.A[3]) != i/2 {
				t.Fatalf("record %d is %v, want one of %s", i, rr, pod)
			}
		}
	}
}

// newRR is the record of a kind for an owner.
func newRR(owner string, kind byte, rdata string, ttl uint32) dns.RR {
	hdr := dns.RR_Header{Name: owner, Rrtype: typeOf(kind), Class: dns.ClassINET, Ttl: ttl}
	switch kind &^ kindPointer {
	case kindA:
		return &dns.A{Hdr: hdr, A: net.IP(rdata)}
	case kindAAAA:
		return &dns.AAAA{Hdr: hdr, AAAA: net.IP(rdata)}
	case kindCNAME:
		return &dns.CNAME{Hdr: hdr, Target: wireName(rdata).String()}
	case kindSRV:
		number := func(at int) uint16 { return uint16(rdata[at])<<8 | uint16(rdata[at+1]) }
		return &dns.SRV{Hdr: hdr, Priority: number(0), Weight: number(2), Port: number(4), Target: wireName(rdata[srvFixed:]).String()}
	}
	return &dns.TXT{Hdr: hdr, Txt: characterStrings(rdata)}
}

// characterStrings takes the strings of a TXT record apart, escaped as the DNS
// package wants them.
func characterStrings(rdata string) []string {
	var parts []string
	for rdata != "" {
		n := 1 + int(rdata[0])
		parts = append(parts, strings.ReplaceAll(rdata[1:n], `\`, `\\`))
		rdata = rdata[n:]
	}
	return parts
}
