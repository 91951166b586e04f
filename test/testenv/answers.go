// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// BigTXT is the length of the text at every name "big.*": too long for a
// datagram of 1232 bytes, short enough for one message of any client.
const BigTXT = 4096

// answerTTL is long enough that no answer expires during a test.
const answerTTL = 300

// Answers is the default handler. It answers every name so that the answer shows
// which server gave it:
//
//	A, AAAA   AnswerOf and AnswerOf6 of the server's address
//	TXT       "server=ADDRESS"; big.*: BigTXT bytes in several strings
//	others    no data
//	nx.*      no such name
//
// Negative answers carry an SOA. Datagrams fit the client's EDNS size and are
// truncated otherwise.
func Answers(server netip.Addr) dns.Handler {
	return dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := reply(r)
		if len(r.Question) != 1 {
			m.Rcode = dns.RcodeFormatError
			send(w, r, m)
			return
		}
		q := r.Question[0]
		if strings.HasPrefix(strings.ToLower(q.Name), "nx.") {
			m.Rcode = dns.RcodeNameError
		} else if rr := answer(server, q); rr != nil {
			m.Answer = []dns.RR{rr}
		}
		if len(m.Answer) == 0 {
			m.Ns = []dns.RR{soa(".")}
		}
		send(w, r, m)
	})
}

// AnswerOf is the A record that the default handler of a server gives:
// 198.51.100.N, N being the last byte of the server's address.
func AnswerOf(server netip.Addr) netip.Addr {
	raw := server.As16()
	return netip.AddrFrom4([4]byte{198, 51, 100, raw[15]})
}

// AnswerOf6 is the AAAA record likewise: 2001:db8:100::N.
func AnswerOf6(server netip.Addr) netip.Addr {
	raw := netip.MustParseAddr("2001:db8:100::").As16()
	raw[15] = server.As16()[15]
	return netip.AddrFrom16(raw)
}

// answer makes the one record that server has for q, or nil.
func answer(server netip.Addr, q dns.Question) dns.RR {
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: answerTTL}
	switch q.Qtype {
	case dns.TypeA:
		return &dns.A{Hdr: header, A: AnswerOf(server).AsSlice()}
	case dns.TypeAAAA:
		return &dns.AAAA{Hdr: header, AAAA: AnswerOf6(server).AsSlice()}
	case dns.TypeTXT:
		if strings.HasPrefix(strings.ToLower(q.Name), "big.") {
			return &dns.TXT{Hdr: header, Txt: bigText()}
		}
		return &dns.TXT{Hdr: header, Txt: []string{"server=" + server.String()}}
	}
	return nil
}

// bigText cuts BigTXT bytes into character strings of 255.
func bigText() []string {
	const longest = 255
	var texts []string
	for left := BigTXT; left > 0; left -= longest {
		texts = append(texts, strings.Repeat("x", min(left, longest)))
	}
	return texts
}

func soa(zone string) dns.RR {
	return &dns.SOA{
		Hdr:     dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: answerTTL},
		Ns:      "ns.example.org.",
		Mbox:    "hostmaster.example.org.",
		Serial:  1,
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: answerTTL,
	}
}

// reply begins the answer to r, with an OPT record if r has one.
func reply(r *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(r)
	m.Authoritative = true
	if opt := r.IsEdns0(); opt != nil {
		m.SetEdns0(dns.DefaultMsgSize, opt.Do())
	}
	return m
}

// send writes m so that it fits what the client of r can take. A client that is
// gone is not the server's failure.
func send(w dns.ResponseWriter, r, m *dns.Msg) {
	size := dns.MaxMsgSize
	if w.RemoteAddr().Network() == "udp" {
		size = dns.MinMsgSize
		if opt := r.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
	}
	m.Truncate(size)
	_ = w.WriteMsg(m)
}
