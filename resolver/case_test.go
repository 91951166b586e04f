// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// spelling is the name of a question as its client spells it: letters enough that no two
// spellings are the same by chance.
const spelling = "A-Name-Of-Many-Letters-So-That-Chance-Is-Of-No-Matter.example.org."

// A random case goes to the upstream, the client's own comes back: RFC 4343, RFC 5452
// section 9, draft-vixie-dnsext-dns0x20. A server that changes the case is noticed, and
// one for which somebody else answers is not mistaken for it.
func TestRandomCase(t *testing.T) {
	record := spelling + " 5 IN A 192.0.2.1"
	lowers := func(m *dns.Msg) { m.Question[0].Name = strings.ToLower(m.Question[0].Name) }
	keeping, lowering := with(t, nil, record), with(t, lowers, record)
	forging := with(t, lowers, spelling+" 5 IN A 203.0.113.66")
	for _, tc := range []struct {
		name     string
		udp, tcp script
		asked    string // how, by three queries: in a secret case, or as the client spells
		answers  string
	}{
		{"kept", keeping, nil, "udp secret, udp secret, udp secret", "answer answer answer"},
		{"lowered", lowering, lowering, "udp secret, tcp secret, udp plain, udp plain", "answer answer answer"},
		{"lowered, and no TCP", lowering, func(func([]byte), asked) {}, "udp secret, tcp secret, udp plain, udp plain", "SERVFAIL answer answer"},
		{"forged", forging, keeping, "udp secret, tcp secret, udp secret, tcp secret, udp secret, tcp secret", "answer answer answer"},
		{"refused without a question", with(t, func(m *dns.Msg) { m.Rcode, m.Question = dns.RcodeRefused, nil }), nil,
			"udp secret, udp secret, udp secret", "REFUSED REFUSED REFUSED"},
	} {
		bothWays(t, tc.name, func(t *testing.T, start starter) {
			up := upstream(t, tc.udp, tc.tcp)
			cfg := quick(up.addr)
			cfg.RandomCase, cfg.Resend = true, patience
			s, addr := start(t, cfg)
			var answers []string
			for range 3 {
				got := exchange(t, "udp", addr, query(spelling, dns.TypeA))
				answer := dns.RcodeToString[got.Rcode]
				if len(got.Answer) == 1 && strings.HasSuffix(got.Answer[0].String(), "192.0.2.1") {
					answer = "answer"
				}
				if answers = append(answers, answer); got.Question[0].Name != spelling {
					t.Errorf("the question came back as %s", got.Question[0].Name)
				}
			}
			if got := strings.Join(answers, " "); got != tc.answers {
				t.Errorf("got %s, want %s", got, tc.answers)
			}
			var ways []string
			seen := make(map[string]bool)
			for _, q := range up.queries() {
				name := unpack(t, q.wire).Question[0].Name
				kind := "plain"
				if name != spelling {
					kind = "secret"
				}
				if kind == "secret" && q.network == "udp" && seen[name] {
					t.Errorf("%s goes out twice", name)
				}
				seen[name] = true
				ways = append(ways, q.network+" "+kind)
			}
			if got := strings.Join(ways, ", "); got != tc.asked {
				t.Errorf("asked %s, want %s", got, tc.asked)
			}
			if n := s.metrics.retries[retryCase].Load(); int(n) != strings.Count(tc.asked, "tcp") {
				t.Errorf("%d of %s are counted", n, tc.asked)
			}
		})
	}
}

// Every letter of a name may change, and nothing else of it.
func TestMixCase(t *testing.T) {
	const name = "\x0aaZ@[`{-09_\x02\xc1\xe1\x00" // an octet beside each end of the letters
	changed := make(map[int]bool)
	for range 200 {
		mixed := []byte(name)
		mixCase(mixed)
		for i := range mixed {
			if mixed[i] != name[i] {
				changed[i] = true
				if mixed[i]^name[i] != 0x20 {
					t.Fatalf("octet %d of %q is %q", i, name, mixed[i])
				}
			}
		}
	}
	if len(changed) != 2 || !changed[1] || !changed[2] {
		t.Errorf("octets %v of %q change", changed, name)
	}
}
