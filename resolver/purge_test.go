// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
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
					path.begin(time.Now())
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

// A change of one name of a layer takes back what rests on it, and nothing else: what
// is in the cache for other names stays, also what is on its way.
func TestLayerChangeIsExact(t *testing.T) {
	all := NewNames()
	l := all.AddLayer("changing")
	origin := l.Origin(func() string { return "changing" })
	if _, err := all.AddLayer("files").SetFiles(yamlSource(storyTable)); err != nil {
		t.Fatal(err)
	}
	nx := says(t, authority(t, dns.RcodeNameError, ". 300 IN SOA a. b. 1 1 1 1 300"))
	bubble(t, Config{Search: []string{"svc.example.net"}}, nx, func(t *testing.T, s *Server, end *oracle) {
		stop := all.Follow(s)
		defer stop()
		for _, change := range []string{"other.example.org", "web.example.org", "y.z.apps.example.org", "web.example.org.svc.example.net"} {
			askPastTable(t, s, "cached.example.com", end)
			askPastTable(t, s, "a."+change, end)
			asked := end.asked()
			if err := l.Apply(slices.Values([]Name{{Name: change, From: origin, TTL: 5, Addrs: []netip.Addr{loopback}}})); err != nil {
				t.Fatal(err)
			}
			askPastTable(t, s, "cached.example.com", end)
			if end.asked() != asked {
				t.Errorf("%s changed: another name was asked for again", change)
			}
			askPastTable(t, s, "a."+change, end)
			if end.asked() != asked+1 {
				t.Errorf("%s changed: a name below it was not asked for again", change)
			}
			if err := l.Replace(slices.Values([]Name(nil))); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// An answer that is on its way while another name changes is kept.
func TestLayerChangeSparesFlights(t *testing.T) {
	all := NewNames()
	l := all.AddLayer("changing")
	origin := l.Origin(func() string { return "changing" })
	for change, again := range map[string]bool{"other.example.org": false, "a.example.org": true, "example.org": true} {
		bubble(t, Config{}, says(t, nil, good), func(t *testing.T, s *Server, end *oracle) {
			end.takes = time.Second
			defer all.Follow(s)()
			var client sync.WaitGroup
			client.Go(func() { askServer(t, s, packetOf(t, query("a.example.org", dns.TypeA))) })
			synctest.Wait()
			for _, addrs := range [][]netip.Addr{{loopback}, nil} {
				if err := l.Apply(slices.Values([]Name{{Name: change, From: origin, Addrs: addrs}})); err != nil {
					t.Fatal(err)
				}
			}
			client.Wait()
			askServer(t, s, packetOf(t, query("a.example.org", dns.TypeA)))
			if got := end.asked() == 2; got != again {
				t.Errorf("%s changed: asked again: %t", change, got)
			}
		})
	}
}

// What a layer is given and cannot be served is left out, and the error says what.
func TestLayerRefuses(t *testing.T) {
	l := NewNames().AddLayer("source")
	origin := l.Origin(func() string { return "source" })
	addrs := make([]netip.Addr, 5000)
	for i := range addrs {
		addrs[i] = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
	}
	err := l.Apply(slices.Values([]Name{
		{Name: "good.example.org", From: origin, Addrs: addrs[:1]},
		{Name: "a..b", From: origin, Addrs: addrs[:1]},
		{Name: "alias.example.org", From: origin, CNAME: "not a name"},
		{Name: "srv.example.org", From: origin, SRV: []SRV{{Port: 80, Target: "!"}, {Port: 81, Target: "good.example.org"}}},
		{Name: "big.example.org", From: origin, Addrs: addrs},
	}))
	want := []string{
		`source: name "a..b": empty label`,
		`source: alias.example.org: cname: name "not a name": character ' ' is not a letter, digit, hyphen or underscore`,
		`source: srv.example.org: srv: name "!": character '!' is not a letter, digit, hyphen or underscore`,
		`source: big.example.org: 3065 records left out: the others fill a message`,
	}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("error: %v", err)
	}
	if names, _ := l.Count(); names != 3 {
		t.Errorf("%d names", names)
	}
}
