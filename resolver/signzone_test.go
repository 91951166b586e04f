// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"crypto"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// signer makes a zone file a signed one (RFC 4035 section 2, RFC 5155 section 7): DNSKEY,
// RRSIG, and NSEC or NSEC3 records, without help of any tool.
type signer struct {
	tb     testing.TB
	origin string
	key    *dns.DNSKEY
	secret crypto.Signer
	rrsets map[string]map[uint16][]dns.RR // by owner in lower case
	hashed bool                           // NSEC3
	out    strings.Builder
}

// signed returns the zone of text, signed, if hashed with NSEC3.
func signed(tb testing.TB, origin, text string, hashed bool) string {
	tb.Helper()
	s := &signer{tb: tb, origin: origin, hashed: hashed, rrsets: make(map[string]map[uint16][]dns.RR)}
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
	if s.hashed {
		s.addNSEC3(chain)
	} else {
		slices.SortFunc(chain, canonical)
		for i, owner := range chain {
			s.addNSEC(owner, chain[(i+1)%len(chain)])
		}
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

// addNSEC3 makes the chain of the owners' hashes, and of those of empty non-terminals. As
// RFC 9276 has it there is no salt, and no iteration.
func (s *signer) addNSEC3(owners []string) {
	s.add(&dns.NSEC3PARAM{Hdr: dns.RR_Header{Name: s.origin, Rrtype: dns.TypeNSEC3PARAM, Class: dns.ClassINET}, Hash: dns.SHA1})
	types := make(map[string][]uint16) // by hash
	for _, owner := range owners {
		var all []uint16
		for typ := range s.rrsets[owner] {
			all = append(all, typ)
		}
		if !s.isCut(owner) || s.rrsets[owner][dns.TypeDS] != nil {
			all = append(all, dns.TypeRRSIG)
		}
		slices.Sort(all)
		types[hashOwner(owner)] = all
		for up := owner; up != s.origin; {
			_, up, _ = strings.Cut(up, ".")
			if s.rrsets[up] == nil {
				types[hashOwner(up)] = nil
			}
		}
	}
	chain := slices.Sorted(maps.Keys(types))
	for i, hash := range chain {
		s.add(&dns.NSEC3{
			Hdr:  dns.RR_Header{Name: strings.ToLower(hash) + "." + s.origin, Rrtype: dns.TypeNSEC3, Class: dns.ClassINET, Ttl: 60},
			Hash: dns.SHA1, HashLength: 20, NextDomain: chain[(i+1)%len(chain)], TypeBitMap: types[hash],
		})
	}
}

func hashOwner(owner string) string { return dns.HashName(owner, dns.SHA1, 0, "") }

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
