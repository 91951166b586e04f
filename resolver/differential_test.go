// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// roleServe is a child of a test that serves in a network namespace.
const roleServe = "serve"

// serveRole forwards what comes at the first address to the second one, until its
// standard input ends.
func serveRole(args []string) int {
	if err := serveUntilEOF(netip.MustParseAddrPort(args[0]), netip.MustParseAddrPort(args[1])); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serveUntilEOF(at, up netip.AddrPort) error {
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	s, err := New(Config{Upstreams: []netip.AddrPort{up}})
	if err != nil {
		return err
	}
	names, err := ParseTable(Source{Path: "bench", Data: []byte("192.0.2.1 table.example.org")})
	if err != nil {
		return err
	}
	s.SetTable(names)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return s.Serve(ctx, Listeners{UDP: []*net.UDPConn{udp}, TCP: []*net.TCPListener{tcp}})
}

// differential is a real nameserver with signed zones, and a resolver before it.
type differential struct {
	client           *testenv.NetNS
	direct, resolver netip.AddrPort
	conns            map[way]net.Conn
	owners           []string // of the zones
}

// way is how a client asks.
type way struct {
	server netip.AddrPort
	tcp    bool
}

// hashedZone is signed with NSEC3, the others with NSEC.
const hashedZone = "example.net."

func newDifferential(t *testing.T) *differential {
	t.Helper()
	client, server := testenv.NewLink(t)
	d := &differential{client: client, direct: netip.MustParseAddrPort("192.0.2.53:53"), resolver: netip.MustParseAddrPort("127.0.0.1:15053"), conns: make(map[way]net.Conn)}
	zones := make(map[string]string)
	for _, origin := range []string{"example.org.", "2.0.192.in-addr.arpa.", hashedZone} {
		text := zoneText(t, origin)
		d.owners = append(d.owners, ownersOf(t, origin, text)...)
		zones[origin] = signed(t, origin, text, origin == hashedZone)
	}
	testenv.NSD(t, server, []netip.AddrPort{d.direct}, zones)
	cmd := testenv.Command(t, roleServe, d.resolver.String(), d.direct.String())
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	client.Start(cmd)
	testenv.Eventually(t, patience, func() (err error) {
		client.Do(func() { err = Ping(t.Context(), d.resolver) })
		return err
	})
	client.Do(func() {
		for _, server := range []netip.AddrPort{d.direct, d.resolver} {
			d.conns[way{server, false}] = connect(t, "udp", server)
			d.conns[way{server, true}] = connect(t, "tcp", server)
		}
	})
	return d
}

func zoneText(t *testing.T, origin string) string {
	t.Helper()
	zone, err := os.ReadFile("testdata/" + origin + "zone")
	if err != nil {
		t.Fatal(err)
	}
	text := string(zone)
	if origin != "example.org." {
		return text
	}
	for _, big := range []struct{ name, n int }{{1, 6}, {2, 20}, {3, 200}} {
		for i := range big.n {
			text += fmt.Sprintf("big%d TXT \"%03d %s\"\n", big.name, i, strings.Repeat("x", 240))
		}
	}
	return text
}

// ownersOf are the names of a zone, in its order.
func ownersOf(t *testing.T, origin, text string) []string {
	t.Helper()
	var names []string
	parser := dns.NewZoneParser(strings.NewReader(text), origin, "")
	for rr, ok := parser.Next(); ok; rr, ok = parser.Next() {
		if name := rr.Header().Name; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if err := parser.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// ask is one question as stubs ask it: over UDP, and after TC over TCP. The sockets
// stay the same, so that thousands of questions take seconds.
func (d *differential) ask(t *testing.T, server netip.AddrPort, tcp bool, q *dns.Msg) *dns.Msg {
	t.Helper()
	q.Id++ // the sockets bring the answers to questions before, too, where one was lost
	conn := d.conns[way{server, tcp}]
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	send(t, conn, pack(t, q))
	got := unpack(t, receive(t, conn))
	if got.Id != q.Id {
		t.Fatalf("%s: the answer of %s has ID %d, want %d", q.Question[0].String(), server, got.Id, q.Id)
	}
	if got.Truncated && !tcp {
		return d.ask(t, server, true, q)
	}
	return got
}

// sectionsOf is what two answers must agree on: all but ID and TTL.
func sectionsOf(m *dns.Msg) []string {
	out := []string{dns.RcodeToString[m.Rcode], flagWords(m.MsgHdr), m.Question[0].String()}
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if opt, ok := rr.(*dns.OPT); ok {
				out = append(out, fmt.Sprintf("OPT version %d, DO %t, %v", opt.Version(), opt.Do(), opt.Option))
				continue
			}
			rr = dns.Copy(rr)
			rr.Header().Ttl = 0
			out = append(out, fmt.Sprint(i, " ", rr))
		}
	}
	return out
}

// ttls are the TTLs of an answer in order.
func ttls(m *dns.Msg) []uint32 {
	var out []uint32
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if rr.Header().Rrtype != dns.TypeOPT {
				out = append(out, rr.Header().Ttl)
			}
		}
	}
	return out
}

// Of a real nameserver with signed zones, every answer is the same directly and
// through the resolver, over UDP and TCP, the first time and out of the cache: all
// sections in their order, all flags, nothing but lower TTLs. RFC 5625 section 4.
func TestDifferential(t *testing.T) {
	d := newDifferential(t)
	questions := 0
	kinds := make(map[string]int)
	for i, name := range append(d.owners, oddNames()...) {
		for j, qtype := range differentialTypes {
			q := variant(query(name, qtype), i+j)
			questions++
			for _, kind := range kindsOf(d.compare(t, q)) {
				kinds[kind]++
			}
			if q.IsEdns0() != nil && d.isCached(t, q) {
				kinds["cached"]++
			}
			if t.Failed() && questions > 20 {
				t.Fatal("and so on")
			}
		}
	}
	t.Logf("%d questions: %v", questions, kinds)
	if questions < 2000 {
		t.Errorf("only %d questions", questions)
	}
	// A nameserver that knows nothing would agree with us about all of it.
	for kind, least := range map[string]int{"records": 400, "NODATA": 1000, "NXDOMAIN": 150, "referral": 100, "REFUSED": 40, "cached": 1200, "signed": 800, "chain": 200, "large": 15, "NSEC3": 80} {
		if kinds[kind] < least {
			t.Errorf("%s: only %d of %d questions: %v", kind, kinds[kind], questions, kinds)
		}
	}
}

// variant is a question as one of several kinds of clients asks it.
func variant(q *dns.Msg, i int) *dns.Msg {
	switch i % 7 {
	case 1:
		q.SetEdns0(1232, false)
	case 2:
		q.SetEdns0(1232, true)
	case 3:
		q.SetEdns0(4096, true)
		q.CheckingDisabled = true
	case 4:
		q.AuthenticatedData = true
	case 5:
		q.SetEdns0(512, true)
		q.RecursionDesired = false
	case 6:
		q.SetEdns0(4096, false)
		q.AuthenticatedData = true
	}
	return q
}

// compare asks one question in every way and returns its answer.
func (d *differential) compare(t *testing.T, q *dns.Msg) *dns.Msg {
	t.Helper()
	udp, tcp := d.ask(t, d.direct, false, q), d.ask(t, d.direct, true, q)
	type step struct {
		name string
		tcp  bool
		want []*dns.Msg
	}
	steps := []step{
		{"UDP", false, []*dns.Msg{udp}},
		{"UDP again", false, []*dns.Msg{udp}},
		{"TCP", true, []*dns.Msg{tcp}},
		{"TCP again", true, []*dns.Msg{tcp}},
		// What was left out for want of room over UDP is in the cache now.
		{"UDP after TCP", false, []*dns.Msg{udp, tcp}},
	}
	if tcp.Rcode == dns.RcodeRefused {
		steps = []step{steps[0], steps[2]} // the second time it is a cached failure, and says so
	}
	for _, step := range steps {
		got := d.ask(t, d.resolver, step.tcp, q)
		i := slices.IndexFunc(step.want, func(want *dns.Msg) bool { return slices.Equal(sectionsOf(want), sectionsOf(got)) })
		if i < 0 {
			t.Errorf("%s, %s (-direct +resolver):\n%s", q.Question[0].String(), step.name, cmp.Diff(sectionsOf(step.want[0]), sectionsOf(got)))
			return tcp
		}
		for i, most := range ttls(step.want[i]) {
			if ttl := ttls(got)[i]; ttl > most {
				t.Errorf("%s, %s: TTL %d is more than %d", q.Question[0].String(), step.name, ttl, most)
			}
		}
	}
	return tcp
}

// isCached asks once more, for the origin.
func (d *differential) isCached(t *testing.T, q *dns.Msg) bool {
	q = q.Copy()
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: optOrigin}}
	return strings.HasPrefix(newAnswer(d.ask(t, d.resolver, true, q)).Origin, "cache, ")
}

// kindsOf says what there is to see in an answer.
func kindsOf(m *dns.Msg) []string {
	var kinds []string
	switch {
	case m.Rcode != dns.RcodeSuccess:
		kinds = append(kinds, dns.RcodeToString[m.Rcode])
	case len(m.Answer) > 0:
		kinds = append(kinds, "records")
	case len(m.Ns) > 0 && !m.Authoritative:
		kinds = append(kinds, "referral")
	default:
		kinds = append(kinds, "NODATA")
	}
	isSignature := func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeRRSIG }
	if m.Question[0].Qtype != dns.TypeRRSIG && (slices.ContainsFunc(m.Answer, isSignature) || slices.ContainsFunc(m.Ns, isSignature)) {
		kinds = append(kinds, "signed")
	}
	if slices.ContainsFunc(m.Ns, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeNSEC3 }) {
		kinds = append(kinds, "NSEC3")
	}
	if len(m.Answer) > 1 && m.Answer[0].Header().Rrtype == dns.TypeCNAME {
		kinds = append(kinds, "chain")
	}
	if m.Len() > udpSize {
		kinds = append(kinds, "large")
	}
	return kinds
}

var differentialTypes = []uint16{
	dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX, dns.TypeNS, dns.TypeSOA, dns.TypeCNAME, dns.TypePTR, dns.TypeSRV,
	dns.TypeHTTPS, dns.TypeSVCB, dns.TypeCAA, dns.TypeTLSA, dns.TypeNAPTR, dns.TypeDS, dns.TypeDNSKEY, dns.TypeNSEC, dns.TypeNSEC3PARAM,
	dns.TypeRRSIG, dns.TypeANY, dns.TypeDNAME, 65280,
}

// oddNames are some that are not in the zones, or not like this: below wildcards and
// aliases of trees, below names that are not there, elsewhere, and in other spellings.
func oddNames() []string {
	names := []string{
		"WeB", "C2", "a.wild", "b.c.wild", "*.wild", "below.exact.wild", "x.alias", "ent", "empty.ent", "a.old", "b.a.old",
		"missing.old", "x.sub", "x.signedsub", "missing", "below.missing", "far.below.missing", "~", strings.Repeat("l", 63),
		"user.pages", "APi", "_tcp", "svc", "xn--mnchen-3ya.www",
	}
	for i := range names {
		names[i] += ".example.org"
	}
	for _, name := range []string{"missing", "far.below.missing", "a.wild", "ent", "empty.ent", "x.ent", "below.web", "x.sub", "x.signedsub", hashOwner("web." + hashedZone)} {
		names = append(names, name+"."+hashedZone)
	}
	return append(names, "2.2.0.192.in-addr.arpa", "129.128/26.2.0.192.in-addr.arpa", "1.113.0.203.in-addr.arpa", "www.example.com", ".")
}
