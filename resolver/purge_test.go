// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// A change of the table forgets what lies at and below names that changed, and only
// that: a negative answer does not hide a service, nor does an old one stay.
func TestSetTablePurges(t *testing.T) {
	const before = "names: {old.example.org: [192.0.2.1], same.example.org: [192.0.2.2], '*.wild.example.org': [192.0.2.3]}"
	const after = "names: {new.example.org: [192.0.2.1], same.example.org: [192.0.2.2], '*.wild.example.org': [192.0.2.4]}"
	for name, purged := range map[string]bool{
		"a.old.example.org": true, "a.new.example.org": true, "old.example.org": true,
		"a.same.example.org": false, "example.org": false, "other.example.org": false,
		"wild.example.org": true, "new.example.org.svc.example.net": true, "x.svc.example.net": false,
	} {
		t.Run(name, func(t *testing.T) {
			nx := says(t, authority(t, dns.RcodeNameError, ". 300 IN SOA a. b. 1 1 1 1 300"))
			bubble(t, Config{Search: []string{"svc.example.net"}}, nx, func(t *testing.T, s *Server, end *oracle) {
				s.SetTable(table(t, before))
				askPastTable(t, s, name, end)
				s.SetTable(table(t, after))
				askPastTable(t, s, name, end)
				if got := end.asked() == 2; got != purged {
					t.Errorf("forgotten: %t", got)
				}
			})
		})
	}
}

// askPastTable fills the cache as before a name came into the table.
func askPastTable(t *testing.T, s *Server, name string, end Exchanger) {
	t.Helper()
	req, err := newRequest(packetOf(t, query(name, dns.TypeA)))
	if err != nil {
		t.Fatal(err)
	}
	req.scope = s.own
	if _, err := chain(end, route, s.cache.lookup, s.cache.fill).Exchange(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// An answer to a question from before a change of the table is not kept.
func TestSetTablePurgesFlights(t *testing.T) {
	bubble(t, Config{}, says(t, nil, good), func(t *testing.T, s *Server, end *oracle) {
		end.takes = time.Second
		var client sync.WaitGroup
		client.Go(func() { askServer(t, s, packetOf(t, query("a.example.org", dns.TypeA))) })
		synctest.Wait()
		s.SetTable(table(t, "names: {example.org: [192.0.2.1]}"))
		client.Wait()
		askServer(t, s, packetOf(t, query("a.example.org", dns.TypeA)))
		if end.asked() != 2 {
			t.Errorf("asked %d times", end.asked())
		}
	})
}

// Clients, failures and changes of table and search list at the same time: every
// query is answered, and never with what another name has.
func TestCacheWhileAllChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turn atomic.Int64
		end := &oracle{tb: t, takes: 3 * time.Millisecond, answer: func(req *Request) (*Response, error) {
			if turn.Add(1)%5 == 0 {
				return timedOut(req)
			}
			text := req.msg.name.String()
			return says(t, nil, text+` 2 IN TXT "`+text+`"`)(req)
		}}
		s := before(t, Config{CacheBytes: 64 << 10}, end) // too small for all of them
		tables := []*Table{nil, table(t, "names: {n1.example.org: [192.0.2.1]}"), table(t, "names: {'*.example.com': [192.0.2.1]}")}
		var clients sync.WaitGroup
		for c := range 8 {
			clients.Go(func() {
				path := s.own.newWirePath()
				for i := range 400 {
					name := fmt.Sprintf("n%d.example.org.", (i*7+c)%40)
					in := packetOf(t, query(name, dns.TypeTXT))
					got := new(dns.Msg)
					if reply := path.answer(nil, in.wire, in.local, false); reply != nil {
						got = unpack(t, reply[2:])
					} else {
						got = askServer(t, s, in)
					}
					if len(got.Answer) == 1 && got.Answer[0].(*dns.TXT).Txt[0] != name || got.Question[0].Name != name {
						t.Errorf("asked %s: %v", name, got)
					}
					pass(time.Duration(c+1) * time.Millisecond)
				}
			})
		}
		for i := range 100 {
			s.SetTable(tables[i%len(tables)])
			s.SetSearch([]string{"svc.example.net", "example.com"}[:i%3])
			pass(7 * time.Millisecond)
		}
		clients.Wait()
	})
}
