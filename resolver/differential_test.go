// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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

// differential is a real nameserver with a signed zone, and a resolver before it.
type differential struct {
	client           *testenv.NetNS
	direct, resolver netip.AddrPort
}

func newDifferential(t *testing.T) *differential {
	t.Helper()
	zone, err := os.ReadFile("testdata/example.org.zone")
	if err != nil {
		t.Fatal(err)
	}
	text := string(zone)
	for _, big := range []struct{ name, n int }{{1, 6}, {2, 20}, {3, 200}} {
		for i := range big.n {
			text += fmt.Sprintf("big%d TXT \"%03d %s\"\n", big.name, i, strings.Repeat("x", 240))
		}
	}
	client, server := testenv.NewLink(t)
	d := &differential{client: client, direct: netip.MustParseAddrPort("192.0.2.53:53"), resolver: netip.MustParseAddrPort("127.0.0.1:15053")}
	d.startNSD(t, server, signed(t, "example.org.", text))
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
	return d
}

// startNSD is testenv.NSD without the limit of 200 answers a second, which NSD keeps
// by dropping them.
func (d *differential) startNSD(t *testing.T, server *testenv.NetNS, zone string) {
	t.Helper()
	dir := t.TempDir()
	conf := fmt.Sprintf(`server:
  username: ""
  chroot: ""
  pidfile: ""
  database: ""
  server-count: 1
  rrl-ratelimit: 0
  zonesdir: %q
  zonelistfile: %q
  xfrdfile: %q
  xfrdir: %q
  ip-address: %s@%d
remote-control:
  control-enable: no
zone:
  name: "example.org"
  zonefile: "zone"
`, dir, filepath.Join(dir, "zone.list"), filepath.Join(dir, "xfrd.state"), dir, d.direct.Addr(), d.direct.Port())
	for name, text := range map[string]string{"zone": zone, "nsd.conf": conf} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	server.Start(exec.Command(testenv.Binary(t, "nsd", "nsd"), "-d", "-c", filepath.Join(dir, "nsd.conf")))
	testenv.Eventually(t, patience, func() (err error) {
		d.client.Do(func() { _, _, err = new(dns.Client).Exchange(query("example.org", dns.TypeSOA), d.direct.String()) })
		return err
	})
}

// ask is one question as stubs ask it: over UDP, and after TC over TCP.
func (d *differential) ask(t *testing.T, server netip.AddrPort, tcp bool, q *dns.Msg) *dns.Msg {
	t.Helper()
	var got *dns.Msg
	d.client.Do(func() {
		if !tcp {
			got = exchange(t, "udp", server, q)
		}
		if tcp || got.Truncated {
			got = exchange(t, "tcp", server, q)
		}
	})
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

// Of a real nameserver with a signed zone, every answer is the same directly and
// through the resolver, over UDP and TCP, the first time and out of the cache: all
// sections in their order, all flags, nothing but lower TTLs. RFC 5625 section 4.
func TestDifferential(t *testing.T) {
	d := newDifferential(t)
	questions := 0
	kinds := make(map[string]int)
	for i, name := range differentialNames() {
		for j, qtype := range differentialTypes {
			q := query(name, qtype)
			switch (i + j) % 4 {
			case 1:
				q.SetEdns0(1232, false)
			case 2:
				q.SetEdns0(1232, true)
			case 3:
				q.SetEdns0(4096, true)
				q.CheckingDisabled = true
			}
			questions++
			kinds[d.compare(t, q)]++
			if q.IsEdns0() != nil && d.isCached(t, q) {
				kinds["cached"]++
			}
			if t.Failed() && questions > 20 {
				t.Fatal("and so on")
			}
		}
	}
	// A nameserver that knows nothing would agree with us about all of it.
	for kind, least := range map[string]int{"records": 150, "NODATA": 200, "NXDOMAIN": 80, "referral": 20, "cached": 400} {
		if kinds[kind] < least {
			t.Errorf("%s: only %d of %d questions: %v", kind, kinds[kind], questions, kinds)
		}
	}
}

// compare asks one question in every way and returns what kind of answer it has.
func (d *differential) compare(t *testing.T, q *dns.Msg) (kind string) {
	t.Helper()
	want := map[bool]*dns.Msg{false: d.ask(t, d.direct, false, q), true: d.ask(t, d.direct, true, q)}
	for _, step := range []struct {
		name string
		tcp  bool
	}{{"UDP", false}, {"UDP again", false}, {"TCP", true}, {"TCP again", true}, {"UDP after TCP", false}} {
		got, want := d.ask(t, d.resolver, step.tcp, q), want[step.tcp]
		if diff := cmp.Diff(sectionsOf(want), sectionsOf(got)); diff != "" {
			t.Errorf("%s, %s (-direct +resolver):\n%s", q.Question[0].String(), step.name, diff)
			return ""
		}
		for i, ttl := range ttls(got) {
			if most := ttls(want)[i]; ttl > most {
				t.Errorf("%s, %s: TTL %d is more than %d", q.Question[0].String(), step.name, ttl, most)
			}
		}
	}
	return answerKindOf(want[true])
}

// isCached asks once more, for the origin.
func (d *differential) isCached(t *testing.T, q *dns.Msg) bool {
	q = q.Copy()
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: optOrigin}}
	return strings.HasPrefix(newAnswer(d.ask(t, d.resolver, true, q)).Origin, "cache, ")
}

func answerKindOf(m *dns.Msg) string {
	switch {
	case m.Rcode != dns.RcodeSuccess:
		return dns.RcodeToString[m.Rcode]
	case len(m.Answer) > 0:
		return "records"
	case len(m.Ns) > 0 && !m.Authoritative:
		return "referral"
	}
	return "NODATA"
}

var differentialTypes = []uint16{
	dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX, dns.TypeNS, dns.TypeSOA, dns.TypeCNAME, dns.TypeSRV, dns.TypeHTTPS,
	dns.TypeDS, dns.TypeDNSKEY, dns.TypeNSEC, dns.TypeRRSIG, dns.TypeANY, dns.TypeDNAME, 65280,
}

// differentialNames are those of the zone, with names that are not there, below some
// that are not, and in other spellings.
func differentialNames() []string {
	names := []string{
		"example.org", "www", "WeB", "mixedcase", "c1", "C2", "tonodata", "tonothing", "outside", "loop1", "txtonly", "zerottl",
		"a.wild", "b.c.wild", "exact.wild", "*.wild", "below.exact.wild", "x.alias", "ent", "empty.ent", "leaf.empty.ent",
		"_sip._tcp", "svc", "svc2", "_dns.ns1", "unknown", "naptr", "_443._tcp.web", "ssh", "loc", "hinfo", "rp", "uri",
		"a.old", "b.a.old", "missing.old", "a.new", "sub", "x.sub", "ns.sub", "signedsub", "x.signedsub", "cert", "under_score",
		`esc\.aped`, `esc\000aped`, "big1", "big2", "big3", "missing", "below.missing", "far.below.missing", "~", strings.Repeat("l", 63),
	}
	for i := range names[1:] {
		names[i+1] += ".example.org"
	}
	return slices.Compact(names)
}
