// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// timedOut is what the end of the chain says of a silent upstream.
func timedOut(*Request) (*Response, error) {
	return nil, &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeNoReachableAuthority, text: "upstream timed out", upstream: true}
}

// Failures are believed for a second, then for longer, and each answer says why: RFC
// 9520 sections 3.2 and 3.3, RFC 8914 section 4.14.
func TestFailureBackOff(t *testing.T) {
	refused := func(code int, remarks ...dns.EDNS0) func(*testing.T) func(*Request) (*Response, error) {
		return func(t *testing.T) func(*Request) (*Response, error) {
			return says(t, func(m *dns.Msg) { m.Rcode = code; m.IsEdns0().Option = remarks })
		}
	}
	for _, tc := range []struct {
		name   string
		answer func(*testing.T) func(*Request) (*Response, error)
		rcode  int
		ede    string // 100 ms after
	}{
		{"silence", func(*testing.T) func(*Request) (*Response, error) { return timedOut }, dns.RcodeServerFailure, "22 upstream timed out; 13 100ms ago"},
		{"SERVFAIL", refused(dns.RcodeServerFailure), dns.RcodeServerFailure, "13 upstream 192.0.2.53:53 answered SERVFAIL, 100ms ago"},
		{"SERVFAIL with a reason", refused(dns.RcodeServerFailure, &dns.EDNS0_EDE{InfoCode: 6, ExtraText: "bogus"}), dns.RcodeServerFailure, "6 bogus; 13 upstream 192.0.2.53:53 answered SERVFAIL, 100ms ago"},
		{"REFUSED", refused(dns.RcodeRefused), dns.RcodeRefused, "13 upstream 192.0.2.53:53 answered REFUSED, 100ms ago"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, Config{}, tc.answer(t), func(t *testing.T, s *Server, end *oracle) {
				q := withEDNS(query("a.example.org", dns.TypeA), 1232)
				start := time.Now()
				var asked []time.Duration
				for range 300 {
					n := end.asked()
					got := askServer(t, s, packetOf(t, q))
					if got.Rcode != tc.rcode {
						t.Fatalf("got %v", got)
					}
					since := time.Since(start)
					if end.asked() > n {
						asked = append(asked, since)
					}
					if since == 100*time.Millisecond && fmtEDE(got) != tc.ede {
						t.Errorf("EDE %q, want %q", fmtEDE(got), tc.ede)
					}
					pass(100 * time.Millisecond)
				}
				want := []time.Duration{0, 1, 3, 7, 12, 17, 22, 27}
				for i := range want {
					want[i] *= time.Second
				}
				if diff := cmp.Diff(want, asked); diff != "" {
					t.Errorf("asked (-want +got):\n%s", diff)
				}
				// TCP may work where UDP does not.
				tcp, n := packetOf(t, q), end.asked()
				tcp.tcp = true
				if askServer(t, s, tcp); end.asked() != n+1 {
					t.Error("TCP was not tried")
				}
				// Nor does what one transport does end the pause of the other.
				askServer(t, s, packetOf(t, q))
				if askServer(t, s, tcp); end.asked() != n+1 {
					t.Error("a pause was forgotten")
				}
				// A good answer ends it.
				end.answer = says(t, nil, good)
				pass(maxPause)
				wantGood(t, askServer(t, s, packetOf(t, q)))
				end.answer = tc.answer(t)
				pass(25 * time.Hour)
				n = end.asked()
				askServer(t, s, packetOf(t, q))
				pass(firstPause)
				if askServer(t, s, packetOf(t, q)); end.asked() != n+2 {
					t.Error("the pause did not begin anew")
				}
			})
		})
	}
}

// A failure of our own says nothing about the question.
func TestOwnFailureIsNotKept(t *testing.T) {
	for _, err := range []error{context.DeadlineExceeded, errors.New("no descriptors"), &failure{rcode: dns.RcodeServerFailure, text: "too many"}} {
		bubble(t, Config{}, func(*Request) (*Response, error) { return nil, err }, func(t *testing.T, s *Server, end *oracle) {
			for range 2 {
				askServer(t, s, packetOf(t, query("a.example.org", dns.TypeA)))
			}
			if end.asked() != 2 {
				t.Errorf("%v: kept", err)
			}
		})
	}
	// Nor does one that was given up at the end of Serve.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := (&race{ctx: ctx}).end()
	if f := newFault(nil, err, nil, time.Now()); f != nil {
		t.Errorf("given up, and kept: %v", f.failure)
	}
}

// A stale answer is better than none, for a day: RFC 8767 sections 4 and 5, with the
// extended errors of RFC 8914 sections 4.4 and 4.20.
func TestServeStale(t *testing.T) {
	nx := authority(t, dns.RcodeNameError, orgSOA+"60")
	servfail := func(t *testing.T) func(*Request) (*Response, error) {
		return says(t, func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure })
	}
	silent := func(*testing.T) func(*Request) (*Response, error) { return timedOut }
	const a60, a30 = "a.example.org. 60 IN A 192.0.2.1", "a.example.org. 30 IN A 192.0.2.1"
	for _, tc := range []struct {
		name    string
		first   func(*dns.Msg)
		records []string
		wait    time.Duration
		then    func(*testing.T) func(*Request) (*Response, error)
		want    []string
		ede     string
	}{
		{"silence", nil, []string{a60}, time.Minute, silent, []string{"NOERROR", a30}, "3 upstream timed out"},
		{"SERVFAIL", nil, []string{a60}, time.Minute, servfail, []string{"NOERROR", a30}, "3 upstream 192.0.2.53:53 answered SERVFAIL"},
		{"NXDOMAIN", nx, nil, time.Minute, silent, []string{"NXDOMAIN", "example.org. 30 IN SOA ns.example.org. hostmaster.example.org. 1 7200 600 86400 60"}, "19 upstream timed out"},
		{"still fresh", nil, []string{a60}, 59 * time.Second, silent, []string{"NOERROR", "a.example.org. 1 IN A 192.0.2.1"}, ""},
		{"at the bound", nil, []string{a60}, time.Minute + maxStale - 1, silent, []string{"NOERROR", a30}, "3 upstream timed out"},
		{"too old", nil, []string{a60}, time.Minute + maxStale, silent, []string{"SERVFAIL"}, "22 upstream timed out"},
		{"upstream works", nil, []string{a60}, time.Minute, func(t *testing.T) func(*Request) (*Response, error) { return says(t, nil, good) }, []string{"NOERROR", good}, ""},
		{"upstream says NXDOMAIN", nil, []string{a60}, time.Minute, func(t *testing.T) func(*Request) (*Response, error) { return says(t, nx) },
			[]string{"NXDOMAIN", orgSOA + "60"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, Config{}, says(t, tc.first, tc.records...), func(t *testing.T, s *Server, end *oracle) {
				q := withEDNS(query("a.example.org", dns.TypeA), 1232)
				askServer(t, s, packetOf(t, q))
				pass(tc.wait)
				end.answer = tc.then(t)
				got := askServer(t, s, packetOf(t, q))
				if diff := cmp.Diff(append(slices.Clone(tc.want), tc.ede), append(all(got), fmtEDE(got))); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// While the upstream is left alone the stale answer comes at once, and it is asked
// again after the pause.
func TestStaleWhileItFails(t *testing.T) {
	bubble(t, Config{}, says(t, nil, good), func(t *testing.T, s *Server, end *oracle) {
		q := withEDNS(query("a.example.org", dns.TypeA), 1232)
		askServer(t, s, packetOf(t, q))
		pass(time.Minute)
		end.answer, end.takes = timedOut, 500*time.Millisecond
		for i, want := range []struct {
			took  time.Duration
			asked int
		}{{500 * time.Millisecond, 2}, {0, 2}} {
			start := time.Now()
			got := askServer(t, s, packetOf(t, q))
			if time.Since(start) != want.took || end.asked() != want.asked || len(got.Answer) != 1 {
				t.Errorf("query %d: after %s, asked %d times: %v", i, time.Since(start), end.asked(), got)
			}
		}
		end.answer = says(t, nil, good)
		pass(firstPause)
		wantGood(t, askServer(t, s, packetOf(t, q)))
	})
}

// A slow upstream is waited for 1.8 s if there is a stale answer, and its own answer
// is for the next client: RFC 8767 section 5.
func TestStalePatience(t *testing.T) {
	bubble(t, Config{}, says(t, nil, good), func(t *testing.T, s *Server, end *oracle) {
		q := withEDNS(query("a.example.org", dns.TypeA), 1232)
		askServer(t, s, packetOf(t, q))
		pass(time.Minute)
		end.answer, end.takes = says(t, nil, "a.example.org. 60 IN A 192.0.2.2"), 3*time.Second
		start := time.Now()
		got := askServer(t, s, packetOf(t, q))
		want := "1.8s a.example.org. 30 IN A 192.0.2.1 3 no answer within 1.8s"
		if line := fmt.Sprint(time.Since(start), " ", lines(got.Answer)[0], " ", fmtEDE(got)); line != want {
			t.Errorf("got %q, want %q", line, want)
		}
		pass(2 * time.Second)
		got = askServer(t, s, packetOf(t, q))
		if diff := cmp.Diff([]string{"a.example.org. 60 IN A 192.0.2.2"}, lines(got.Answer)); diff != "" || end.asked() != 2 {
			t.Errorf("asked %d times (-want +got):\n%s", end.asked(), diff)
		}
	})
}
