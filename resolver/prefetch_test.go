// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// An answer in use is fetched again, once, in the last tenth of its time, and nobody
// waits for that; one that is not in use, or lives shortly, is not. While fetching fails
// the old answer serves.
func TestPrefetch(t *testing.T) {
	fails := false
	answer := func(req *Request) (*Response, error) {
		pass(100 * time.Millisecond)
		if fails {
			return nil, &failure{rcode: dns.RcodeServerFailure, ede: noEDE, upstream: true, text: "no"}
		}
		ttl := "100"
		if req.msg.name == "\x05short\x07example\x03org\x00" {
			ttl = "9"
		}
		return says(t, nil, req.msg.name.String()+" "+ttl+" IN A 192.0.2.1")(req)
	}
	bubble(t, Config{}, answer, func(t *testing.T, s *Server, end *oracle) {
		used, short := query("used.example.org", dns.TypeA), query("short.example.org", dns.TypeA)
		// ask asks, on the wire path first as the loop of a socket does, and tells what
		// was waited for and what has been asked upstream.
		ask := func(q *dns.Msg) (waited time.Duration, asked int, ttl uint32) {
			t.Helper()
			before, start := end.asked(), time.Now()
			path, in := s.own.newWirePath(), packetOf(t, q)
			got := new(dns.Msg)
			if reply := path.answer(nil, in.wire, in.local, false); reply != nil {
				got = unpack(t, reply[2:])
			} else {
				got = askServer(t, s, in)
			}
			waited = time.Since(start)
			pass(200 * time.Millisecond)
			synctest.Wait()
			if len(got.Answer) != 1 {
				t.Fatalf("got %v", got)
			}
			return waited, end.asked() - before, got.Answer[0].Header().Ttl
		}
		expect := func(when string, q *dns.Msg, waits bool, asked int) (ttl uint32) {
			t.Helper()
			waited, n, ttl := ask(q)
			if (waited > 0) != waits || n != asked {
				t.Errorf("%s: waited %v, asked upstream %d times", when, waited, n)
			}
			return ttl
		}
		expect("at first", used, true, 1)
		expect("at first, short", short, true, 1)
		pass(8 * time.Second)
		expect("short, at its end", short, false, 0)
		pass(80 * time.Second)
		expect("nine tenths are not over", used, false, 0)
		pass(3 * time.Second)
		if ttl := expect("due", used, false, 1); ttl > 10 {
			t.Errorf("due: TTL %d", ttl)
		}
		if ttl := expect("fetched", used, false, 0); ttl < 99 {
			t.Errorf("fetched: TTL %d", ttl)
		}
		fails = true
		pass(92 * time.Second)
		expect("due, and it fails", used, false, 1)
		expect("after the failure", used, false, 0)
		if got := scrape(t, s)["dnsteer_cache_prefetches_total"]; got != 2 {
			t.Errorf("%v prefetches", got)
		}
		fails = false
		pass(time.Hour)
		expect("nobody asked in time", used, true, 1)
	})
}
