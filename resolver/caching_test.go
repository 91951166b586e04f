// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

const orgSOA = "example.org. 300 IN SOA ns.example.org. hostmaster.example.org. 1 7200 600 86400 "

// authority puts records into the authority section.
func authority(tb testing.TB, rcode int, records ...string) func(*dns.Msg) {
	return func(m *dns.Msg) {
		m.Rcode = rcode
		for _, record := range records {
			rr, err := dns.NewRR(record)
			if err != nil {
				tb.Errorf("record %q: %v", record, err)
				return
			}
			m.Ns = append(m.Ns, rr)
		}
	}
}

// all are the records of a reply, with its rcode in front.
func all(m *dns.Msg) []string {
	out := []string{dns.RcodeToString[m.Rcode]}
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		out = append(out, lines(section)...)
	}
	return out
}

// bubble runs a test in false time, with an upstream that answers at once.
func bubble(t *testing.T, cfg Config, answer func(*Request) (*Response, error), test func(t *testing.T, s *Server, end *oracle)) {
	synctest.Test(t, func(t *testing.T) {
		end := &oracle{tb: t, answer: answer}
		test(t, before(t, cfg, end), end)
	})
}

// What is kept, for how long, and with which TTLs.
func TestCacheLifetime(t *testing.T) {
	expiry := func(in time.Duration) string {
		// A bubble begins at midnight of 2000-01-01.
		return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(in).Format("20060102150405")
	}
	rrsig := func(in time.Duration) string {
		return "a.example.org. 60 IN RRSIG A 13 3 60 " + expiry(in) + " 19991201000000 1 example.org. AAAA"
	}
	for _, tc := range []struct {
		name    string
		change  func(*dns.Msg)
		records []string
		want    int // seconds
	}{
		{"TTL", nil, []string{"a.example.org. 60 IN A 192.0.2.1"}, 60},
		{"the smallest TTL counts", nil, []string{"a.example.org. 60 IN CNAME b.example.org.", "b.example.org. 7 IN A 192.0.2.1"}, 7},
		{"authority counts", authority(t, 0, "example.org. 5 IN NS ns.example.org."), []string{"a.example.org. 60 IN A 192.0.2.1"}, 5},
		{"TTL 0 (RFC 1035 3.2.1)", nil, []string{"a.example.org. 0 IN A 192.0.2.1"}, 0},
		{"uppermost bit set (RFC 2181 8)", func(m *dns.Msg) { m.Answer[0].Header().Ttl = 1<<31 | 60 }, []string{"a.example.org. 60 IN A 192.0.2.1"}, 0},
		{"cap (RFC 8767 4)", nil, []string{"a.example.org. 2147483647 IN A 192.0.2.1"}, maxLife},
		{"TC (RFC 2181 9)", func(m *dns.Msg) { m.Truncated = true }, []string{"a.example.org. 60 IN A 192.0.2.1"}, 0},
		{"signature expires first (RFC 4035 5.3.3)", nil, []string{"a.example.org. 60 IN A 192.0.2.1", rrsig(20 * time.Second)}, 20},
		{"signature expired", nil, []string{"a.example.org. 60 IN A 192.0.2.1", rrsig(-time.Second)}, 0},
		{"NODATA (RFC 2308 2.2)", authority(t, 0, orgSOA+"30"), nil, 30},
		{"NODATA, TTL of the SOA is smaller", authority(t, 0, strings.Replace(orgSOA, "300", "20", 1)+"30"), nil, 20},
		{"NODATA behind an alias", authority(t, 0, orgSOA+"30"), []string{"a.example.org. 10 IN CNAME b.example.org."}, 10},
		{"NODATA, cap (RFC 2308 5)", authority(t, 0, strings.Replace(orgSOA, "300", "864000", 1)+"864000"), nil, maxNegative},
		{"NODATA without SOA (RFC 2308 5)", nil, nil, 0},
		{"referral (RFC 2308 2.2)", authority(t, 0, "example.org. 60 IN NS ns.example.org."), nil, 0},
		{"half a chain", nil, []string{"a.example.org. 60 IN CNAME b.example.com."}, 0},
		{"NXDOMAIN (RFC 2308 2.1)", authority(t, dns.RcodeNameError, orgSOA+"30"), nil, 30},
		{"NXDOMAIN, minimum 0", authority(t, dns.RcodeNameError, orgSOA+"0"), nil, 0},
		{"NXDOMAIN behind an alias (RFC 6604 3)", authority(t, dns.RcodeNameError, orgSOA+"30"), []string{"a.example.org. 60 IN CNAME b.example.org."}, 30},
		{"NXDOMAIN without SOA (RFC 2308 5)", authority(t, dns.RcodeNameError), nil, 0},
		{"NXDOMAIN of another zone", authority(t, dns.RcodeNameError, "example.com. 300 IN SOA a. b. 1 1 1 1 30"), nil, 0},
		{"NOTIMP", authority(t, dns.RcodeNotImplemented), nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, Config{}, says(t, tc.change, tc.records...), func(t *testing.T, s *Server, end *oracle) {
				q := withEDNS(query("a.example.org", dns.TypeA), 1232)
				first := askServer(t, s, packetOf(t, q))
				if tc.want == 0 {
					askServer(t, s, packetOf(t, q))
					if end.asked() != 2 {
						t.Error("was kept")
					}
					return
				}
				withoutPrefetch(s.cache)
				pass(time.Duration(tc.want)*time.Second - 1)
				last := askServer(t, s, packetOf(t, q))
				if end.asked() != 1 {
					t.Fatalf("asked again before %d s", tc.want)
				}
				wantAged(t, first, last, uint32(tc.want-1))
				pass(time.Nanosecond)
				if askServer(t, s, packetOf(t, q)); end.asked() != 2 {
					t.Errorf("not asked again after %d s", tc.want)
				}
			})
		})
	}
}

// withoutPrefetch has what is in the cache live out its time.
func withoutPrefetch(c *cache) {
	for i := range c.shards {
		for _, e := range c.shards[i].entries {
			if e.answer != nil {
				e.answer.fetched.Store(true)
			}
		}
	}
}

// wantAged compares a reply from the cache with the first one: the TTLs alone have
// fallen. The SOA record of a negative answer has the TTL of the answer.
func wantAged(tb testing.TB, first, last *dns.Msg, seconds uint32) {
	tb.Helper()
	want := first.Copy()
	negative := len(want.Answer) == 0 || want.Rcode == dns.RcodeNameError || len(want.Ns) > 0
	for _, section := range [][]dns.RR{want.Answer, want.Ns, want.Extra} {
		for _, rr := range section {
			if soa, ok := rr.(*dns.SOA); ok && negative {
				soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl, maxNegative)
			}
			if rr.Header().Rrtype != dns.TypeOPT {
				rr.Header().Ttl -= seconds
			}
		}
	}
	if diff := cmp.Diff(all(want), all(last)); diff != "" || last.IsEdns0() == nil {
		tb.Errorf("from the cache (-want +got):\n%s", diff)
	}
}

// A name that does not exist has no type (RFC 2308 section 5) and nothing below it
// (RFC 8020 section 2), as the same nameserver sees it.
func TestNameErrorCut(t *testing.T) {
	nx := authority(t, dns.RcodeNameError, orgSOA+"30", "gone.example.org. 60 IN NSEC z.example.org. A RRSIG NSEC", "gone.example.org. 60 IN MX 5 mail.gone.example.org.")
	for _, tc := range []struct {
		name         string
		first, local string // first question, and the address at which it is asked
		then         string
		qtype        uint16
		bits         func(*dns.Msg)
		asked        bool
	}{
		{"another type", "gone.example.org", "127.53.0.1", "Gone.example.org", dns.TypeMX, nil, false},
		{"below", "gone.example.org", "127.53.0.1", "a.b.Gone.example.org", dns.TypeA, nil, false},
		{"beside", "gone.example.org", "127.53.0.1", "xgone.example.org", dns.TypeA, nil, true},
		{"above", "gone.example.org", "127.53.0.1", "example.org", dns.TypeA, nil, true},
		{"another nameserver", "gone.example.org", "127.53.0.2", "a.gone.example.org", dns.TypeA, nil, true},
		{"CD", "gone.example.org", "127.53.0.1", "a.gone.example.org", dns.TypeA, func(m *dns.Msg) { m.CheckingDisabled = true }, true},
		{"top-level name", "org", "127.53.0.1", "a.org", dns.TypeA, nil, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := Config{Origin: func(local netip.Addr) (netip.Addr, bool) { return local, true }}
			change := nx
			if tc.first == "org" {
				change = authority(t, dns.RcodeNameError, ". 300 IN SOA a. b. 1 1 1 1 30")
			}
			bubble(t, cfg, says(t, change), func(t *testing.T, s *Server, end *oracle) {
				in := packetOf(t, query(tc.first, dns.TypeA))
				in.local = netip.MustParseAddr(tc.local)
				first := askServer(t, s, in)
				q := query(tc.then, tc.qtype)
				if tc.bits != nil {
					tc.bits(q)
				}
				in = packetOf(t, q)
				in.local = netip.MustParseAddr("127.53.0.1")
				pass(3 * time.Second)
				got := askServer(t, s, in)
				if asked := end.asked() == 2; asked != tc.asked {
					t.Fatalf("asked again: %t", asked)
				}
				if tc.asked {
					return
				}
				for _, rr := range first.Ns {
					rr.Header().Ttl -= 3
				}
				first.Ns[0].Header().Ttl = 27 // not 300-3
				if diff := cmp.Diff(all(first), all(got)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if q := got.Question[0]; q.Name != tc.then+"." || q.Qtype != tc.qtype {
					t.Errorf("question %v", q)
				}
			})
		})
	}
}

// Nothing that changes the answer is left out of the key, and what has no key is not
// kept: RFC 5625 section 4.1, RFC 4035 section 3.2, RFC 6840 section 5.7, RFC 7871
// section 7.3, RFC 8945.
func TestCacheKeepsApart(t *testing.T) {
	types := says(t, nil, good, "a.example.org. 5 IN AAAA 2001:db8::1", `a.example.org. 5 IN TYPE65280 \# 1 00`)
	bubble(t, Config{}, types, func(t *testing.T, s *Server, end *oracle) {
		want := 0
		for name, q := range distinct() {
			for range 3 {
				askServer(t, s, packetOf(t, q))
			}
			if want++; end.asked() != want {
				t.Errorf("%s: asked %d times so far, want %d", name, end.asked(), want)
			}
		}
		for name, q := range private() {
			for range 2 {
				askServer(t, s, packetOf(t, q))
			}
			if want += 2; end.asked() != want {
				t.Errorf("%s: asked %d times so far, want %d", name, end.asked(), want)
			}
		}
	})
}

// Answers of different nameservers never mix.
func TestCacheByOrigin(t *testing.T) {
	cfg := Config{Origin: func(local netip.Addr) (netip.Addr, bool) { return local, true }}
	own := func(req *Request) (*Response, error) {
		return says(t, nil, "a.example.org. 60 IN A "+req.upstreams[0].addr.Addr().String())(req)
	}
	bubble(t, cfg, own, func(t *testing.T, s *Server, end *oracle) {
		for range 2 {
			for _, local := range []string{"127.53.0.1", "127.53.0.2"} {
				in := packetOf(t, query("a.example.org", dns.TypeA))
				in.local = netip.MustParseAddr(local)
				if got := askServer(t, s, in); got.Answer[0].(*dns.A).A.String() != local {
					t.Errorf("asked %s, got %v", local, got.Answer)
				}
			}
		}
		if end.asked() != 2 {
			t.Errorf("asked %d times", end.asked())
		}
	})
}

// An OPT record is of its hop and not kept (RFC 6891 section 6.1.1); the extended
// errors in it are about the answer and stay (RFC 8914). An answer to a subnet is
// not everybody's (RFC 7871 section 7.3.1), one with scope 0 is.
func TestCacheAndOPT(t *testing.T) {
	opt := func(options ...dns.EDNS0) func(*dns.Msg) {
		return func(m *dns.Msg) { m.IsEdns0().Option = options }
	}
	subnet := func(scope uint8) dns.EDNS0 {
		return &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceScope: scope, Address: []byte{192, 0, 2, 0}, SourceNetmask: 24}
	}
	for _, tc := range []struct {
		name   string
		change func(*dns.Msg)
		want   string // options of the second reply
		asked  int
	}{
		{"cookie", opt(&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "01020304050607080102030405060708"}), "", 1},
		{"unknown", opt(&dns.EDNS0_LOCAL{Code: 65100, Data: []byte("x")}), "", 1},
		{"extended error", opt(&dns.EDNS0_EDE{InfoCode: 4, ExtraText: "forged"}), "4 (Forged Answer): (forged)", 1},
		{"subnet", opt(subnet(24)), "192.0.2.0/24/24", 2},
		{"subnet of all", opt(subnet(0)), "", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, Config{}, says(t, tc.change, good), func(t *testing.T, s *Server, end *oracle) {
				q := withEDNS(query("a.example.org", dns.TypeA), 1232)
				askServer(t, s, packetOf(t, q))
				got := askServer(t, s, packetOf(t, q))
				wantGood(t, got)
				var options []string
				for _, o := range got.IsEdns0().Option {
					options = append(options, o.String())
				}
				if diff := cmp.Diff(tc.want, strings.Join(options, " ")); diff != "" || end.asked() != tc.asked {
					t.Errorf("asked %d times, options (-want +got):\n%s", end.asked(), diff)
				}
			})
		})
	}
}

// What came by UDP may lack records that had no room, so TCP asks again; what came
// by TCP is whole and good for all (RFC 7766 section 5).
func TestCacheByTransport(t *testing.T) {
	by := func(req *Request) (*Response, error) {
		res, err := says(t, nil, good)(req)
		res.tcp = req.TCP
		return res, err
	}
	bubble(t, Config{}, by, func(t *testing.T, s *Server, end *oracle) {
		for i, tc := range []struct {
			tcp   bool
			asked int
		}{{false, 1}, {true, 2}, {true, 2}, {false, 2}} {
			in := packetOf(t, query("a.example.org", dns.TypeA))
			in.tcp = tc.tcp
			wantGood(t, askServer(t, s, in))
			if end.asked() != tc.asked {
				t.Errorf("query %d: asked %d times, want %d", i, end.asked(), tc.asked)
			}
		}
	})
}

// Each client has its own ID, spelling and size also from the cache (RFC 4343).
func TestCacheFitsTheClient(t *testing.T) {
	bubble(t, Config{}, says(t, nil, bigTXT(3)...), func(t *testing.T, s *Server, end *oracle) {
		askServer(t, s, packetOf(t, withEDNS(query("a.example.org", dns.TypeTXT), 1232)))
		q := withEDNS(query("A.exAMple.org", dns.TypeTXT), 600)
		got := askServer(t, s, packetOf(t, q))
		if got.Id != q.Id || got.Question[0].Name != "A.exAMple.org." || !got.Truncated || len(got.Answer) != 0 || end.asked() != 1 {
			t.Errorf("asked %d times, got %v", end.asked(), got)
		}
	})
}

// `dnsteer query` tells an answer of the cache from others.
func TestCacheOrigin(t *testing.T) {
	bubble(t, Config{}, says(t, nil, "a.example.org. 60 IN A 192.0.2.1"), func(t *testing.T, s *Server, _ *oracle) {
		origin := func() string {
			got := askServer(t, s, packetOf(t, withEDNS(query("a.example.org", dns.TypeA), 1232, &dns.EDNS0_LOCAL{Code: optOrigin})))
			return newAnswer(got).Origin
		}
		first := origin()
		pass(12500 * time.Millisecond)
		want := []string{"upstream 192.0.2.53:53 over udp in 1ms", "cache, 12s after upstream 192.0.2.53:53"}
		if diff := cmp.Diff(want, []string{first, origin()}); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// A TTL never grows as long as nothing new has come, whoever asks and when: RFC 1035
// section 3.2.1.
func TestTTLNeverGrows(t *testing.T) {
	bubble(t, Config{}, nil, func(t *testing.T, s *Server, end *oracle) {
		end.answer = says(t, nil, "a.example.org. 50 IN CNAME b.example.org.", "b.example.org. 40 IN A 192.0.2.1")
		last, asked := []uint32{50, 40}, 0
		var sum time.Duration
		for i := range 500 {
			step := time.Duration(i*i*7919%997) * time.Millisecond // no two alike, all below a second
			pass(step)
			sum += step
			in := packetOf(t, query("a.example.org", dns.TypeA))
			got := askServer(t, s, in)
			synctest.Wait()
			isNew := end.asked() != asked
			if isNew && sum >= 40*time.Second || asked == 0 {
				sum, last = 0, []uint32{50, 40}
			}
			for j, rr := range got.Answer {
				ttl := rr.Header().Ttl
				if ttl > last[j] || ttl == 0 || ttl != []uint32{50, 40}[j]-uint32(sum/time.Second) {
					t.Fatalf("TTL %d after %d, %s after the answer came", ttl, last[j], sum)
				}
				last[j] = ttl
			}
			if isNew { // prefetched, for the next one
				asked, sum, last = end.asked(), 0, []uint32{50, 40}
			}
		}
		if asked < 3 || asked > 10 {
			t.Errorf("asked %d times", asked)
		}
	})
}

// The cache can be switched off.
func TestCacheOff(t *testing.T) {
	bubble(t, Config{CacheBytes: -1}, says(t, nil, good), func(t *testing.T, s *Server, end *oracle) {
		for range 2 {
			wantGood(t, askServer(t, s, packetOf(t, query("a.example.org", dns.TypeA))))
		}
		s.SetTable(table(t, "names: {b.example.org: [192.0.2.1]}"))
		if end.asked() != 2 {
			t.Errorf("asked %d times", end.asked())
		}
	})
}

func fmtEDE(m *dns.Msg) string {
	opt := m.IsEdns0()
	if opt == nil {
		return "no OPT"
	}
	var out []string
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			out = append(out, fmt.Sprintf("%d %s", e.InfoCode, e.ExtraText))
		}
	}
	return strings.Join(out, "; ")
}
