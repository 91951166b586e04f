// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"crypto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// signer makes a zone file a signed one (RFC 4035 section 2): DNSKEY, NSEC and RRSIG
// records, without help of any tool.
type signer struct {
	tb     testing.TB
	origin string
	key    *dns.DNSKEY
	secret crypto.Signer
	rrsets map[string]map[uint16][]dns.RR // by owner in lower case
	out    strings.Builder
}

// signed returns the zone of text, signed.
func signed(tb testing.TB, origin, text string) string {
	tb.Helper()
	s := &signer{tb: tb, origin: origin, rrsets: make(map[string]map[uint16][]dns.RR)}
	s.key = &dns.DNSKEY{
		Hdr:   dns.RR_Header{Name: origin, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 3600},
		Flags: dns.ZONE | dns.SEP, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
	}
	secret, err := s.key.Generate(256)
	if err != nil {
		tb.Fatal(err)
	}
	s.secret = secret.(crypto.Signer)
	parser := dns.NewZoneParser(strings.NewReader(text), origin, "")
	for rr, ok := parser.Next(); ok; rr, ok = parser.Next() {
		s.add(rr)
	}
	if err := parser.Err(); err != nil {
		tb.Fatal(err)
	}
	s.add(s.key)
	s.sign()
	return s.out.String()
}

func (s *signer) add(rr dns.RR) {
	owner := strings.ToLower(rr.Header().Name)
	if s.rrsets[owner] == nil {
		s.rrsets[owner] = make(map[uint16][]dns.RR)
	}
	s.rrsets[owner][rr.Header().Rrtype] = append(s.rrsets[owner][rr.Header().Rrtype], rr)
}

func (s *signer) sign() {
	var chain []string
	for owner := range s.rrsets {
		if !s.isGlue(owner) {
			chain = append(chain, owner)
		}
	}
	slices.SortFunc(chain, canonical)
	for i, owner := range chain {
		s.addNSEC(owner, chain[(i+1)%len(chain)])
	}
	for owner, types := range s.rrsets {
		for typ, rrset := range types {
			for _, rr := range rrset {
				s.out.WriteString(rr.String() + "\n")
			}
			if !s.isGlue(owner) && (typ != dns.TypeNS || !s.isCut(owner)) {
				s.addRRSIG(rrset)
			}
		}
	}
}

// isCut reports a delegation, isGlue a name below one.
func (s *signer) isCut(owner string) bool {
	return owner != s.origin && len(s.rrsets[owner][dns.TypeNS]) > 0
}

func (s *signer) isGlue(owner string) bool {
	for owner != s.origin {
		_, owner, _ = strings.Cut(owner, ".")
		if s.isCut(owner) {
			return true
		}
	}
	return false
}

// canonical is the order of RFC 4034 section 6.1.
func canonical(a, b string) int {
	x, y := dns.SplitDomainName(a), dns.SplitDomainName(b)
	slices.Reverse(x)
	slices.Reverse(y)
	return slices.Compare(x, y)
}

func (s *signer) addNSEC(owner, next string) {
	nsec := &dns.NSEC{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeNSEC, Class: dns.ClassINET, Ttl: 60}, NextDomain: next}
	nsec.TypeBitMap = []uint16{dns.TypeRRSIG, dns.TypeNSEC}
	for typ := range s.rrsets[owner] {
		nsec.TypeBitMap = append(nsec.TypeBitMap, typ)
	}
	slices.Sort(nsec.TypeBitMap)
	s.add(nsec)
}

func (s *signer) addRRSIG(rrset []dns.RR) {
	now := time.Now()
	sig := &dns.RRSIG{
		Hdr:        dns.RR_Header{Ttl: rrset[0].Header().Ttl},
		Inception:  uint32(now.Add(-time.Hour).Unix()),
		Expiration: uint32(now.Add(30 * 24 * time.Hour).Unix()),
		KeyTag:     s.key.KeyTag(), SignerName: s.origin, Algorithm: s.key.Algorithm,
	}
	if err := sig.Sign(s.secret, rrset); err != nil {
		s.tb.Fatalf("sign %s: %v", rrset[0], err)
	}
	s.out.WriteString(sig.String() + "\n")
}
