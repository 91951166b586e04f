// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// scrape reads the metrics as a registry that trusts nobody does: a name with its
// labels, and its value; of a histogram the count.
func scrape(tb testing.TB, s *Server) map[string]float64 {
	tb.Helper()
	values := make(map[string]float64)
	for _, family := range gather(tb, s) {
		for _, m := range family.Metric {
			name := family.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			switch {
			case m.Counter != nil:
				values[name] = m.Counter.GetValue()
			case m.Gauge != nil:
				values[name] = m.Gauge.GetValue()
			default:
				values[name] = float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return values
}

func gather(tb testing.TB, s *Server) []*dto.MetricFamily {
	tb.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.Collector())
	families, err := registry.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	return families
}

// grown are the counters that are not what they were, by how much, shortened to what
// stands behind "dnsteer_".
func grown(before, after map[string]float64) map[string]float64 {
	out := make(map[string]float64)
	for name, v := range after {
		if v != before[name] {
			out[strings.TrimPrefix(name, "dnsteer_")] = v - before[name]
		}
	}
	return out
}

// Each way to an answer, and what it counts; the two paths count alike.
func TestMetrics(t *testing.T) {
	s := warm(t)
	s.SetTable(table(t, storyTable))
	tick := func(f func()) map[string]float64 {
		before := scrape(t, s)
		f()
		got := grown(before, scrape(t, s))
		delete(got, "cache_bytes")
		delete(got, "cache_entries")
		return got
	}
	ask := func(q *dns.Msg) func() { return func() { askWire(t, s, pack(t, q), false) } }
	// fast asks on the wire path, and fails if it is not answered there.
	fast := func(q *dns.Msg) func() {
		return func() {
			path := s.own.newWirePath()
			if path.answer(nil, pack(t, q), loopback, false) == nil {
				t.Error("not ready")
			}
			path.end()
		}
	}
	table1 := map[string]float64{"resolver_queries_total udp NOERROR table": 1, "resolver_query_duration_seconds table": 1}
	cache1 := map[string]float64{"resolver_queries_total udp NOERROR cache": 1, "resolver_query_duration_seconds cache": 1, "cache_lookups_total hit": 1}
	nx := map[string]float64{"resolver_queries_total udp NXDOMAIN cache": 1, "resolver_query_duration_seconds cache": 1, "cache_lookups_total hit": 1}
	nxSaved := maps.Clone(nx)
	nxSaved["resolver_saved_queries_total"] = 1
	saved := map[string]float64{"resolver_queries_total udp NOERROR table": 1, "resolver_query_duration_seconds table": 1, "resolver_saved_queries_total": 1}
	denied := map[string]float64{"resolver_queries_total udp NXDOMAIN table": 1, "resolver_query_duration_seconds table": 1, "resolver_saved_queries_total": 1}
	foreign := query("www.example.com.cluster2.example.org", dns.TypeA)
	web, cached, short := query("web.example.org", dns.TypeA), query("a.example.net", dns.TypeA), query("web.example.org.svc.cluster.local", dns.TypeA)
	for _, tc := range []struct {
		name string
		do   func()
		want map[string]float64
	}{
		{"table", ask(web), table1},
		{"table, wire path", fast(web), table1},
		{"forward", ask(cached), map[string]float64{"resolver_queries_total udp NOERROR forward": 1, "resolver_query_duration_seconds forward": 1, "cache_lookups_total miss": 1}},
		{"cache", ask(cached), cache1},
		{"cache, wire path", fast(cached), cache1},
		{"expansion", ask(short), saved},
		{"expansion, wire path", fast(short), saved},
		{"in the table's authority", ask(foreign), denied},
		{"in the table's authority, wire path", fast(foreign), denied},
		{"NXDOMAIN", ask(query("nx.example.net", dns.TypeA)), map[string]float64{"resolver_queries_total udp NXDOMAIN forward": 1, "resolver_query_duration_seconds forward": 1, "cache_lookups_total miss": 1}},
		{"NXDOMAIN again", ask(query("nx.example.net", dns.TypeA)), nx},
		{"NXDOMAIN again, wire path", fast(query("nx.example.net", dns.TypeA)), nx},
		{"NXDOMAIN, another type", ask(query("nx.example.net", dns.TypeAAAA)), nxSaved},
		{"NXDOMAIN, another type, wire path", fast(query("nx.example.net", dns.TypeTXT)), nxSaved},
		{"below NXDOMAIN", ask(query("a.nx.example.net", dns.TypeA)), nxSaved},
		{"mistake", func() { askWire(t, s, make([]byte, headerLen), true) }, map[string]float64{"resolver_queries_total tcp FORMERR failure": 1, "resolver_query_duration_seconds failure": 1}},
		{"malformed", func() { askWire(t, s, append(pack(t, web)[:headerLen], 0xff), false) }, map[string]float64{"resolver_queries_total udp FORMERR failure": 1, "resolver_query_duration_seconds failure": 1}},
		{"an answer", func() { askWire(t, s, []byte{0, 0, 0x80}, false) }, map[string]float64{"resolver_dropped_total": 1}},
		{"table of one name", func() { s.SetTable(table(t, "names: {a.example.org: [192.0.2.1]}")) }, nil},
	} {
		got := tick(tc.do)
		delete(got, "table_names")
		if diff := cmp.Diff(tc.want, got); diff != "" && len(tc.want)+len(got) > 0 {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
	if got := scrape(t, s); got["dnsteer_table_names"] != 1 || got["dnsteer_cache_entries"] < 2 || got["dnsteer_cache_bytes"] < 2*overhead {
		t.Errorf("%v names, %v entries, %v octets", got["dnsteer_table_names"], got["dnsteer_cache_entries"], got["dnsteer_cache_bytes"])
	}
}

// Each scope knows its share of what is counted, on both paths.
func TestScopeAnswered(t *testing.T) {
	s := warm(t)
	s.SetTable(table(t, storyTable))
	other := newScope(t, s, ScopeConfig{})
	ready := func(sc *Scope, names ...string) {
		t.Helper()
		path := sc.newWirePath()
		for _, name := range names { // read together
			if path.answer(nil, pack(t, query(name, dns.TypeA)), loopback, false) == nil {
				t.Errorf("%s is not ready", name)
			}
		}
		path.end()
	}
	askScope(t, s.own, query("web.example.org", dns.TypeA))
	askScope(t, s.own, query("a.example.net", dns.TypeA))
	askScope(t, s.own, query("a.example.net", dns.TypeA))
	ready(s.own, "web.example.org", "a.example.net", "web.example.org")
	askWire(t, s, make([]byte, headerLen), true)
	ready(other, "web.example.org")
	if diff := cmp.Diff(Answered{Forward: 1, Table: 3, Cache: 2, Failure: 1}, s.own.Answered()); diff != "" {
		t.Errorf("one scope (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Answered{Table: 1}, other.Answered()); diff != "" {
		t.Errorf("the other (-want +got):\n%s", diff)
	}
}

// What upstreams do is counted by outcome, and why they are asked again by reason.
func TestUpstreamMetrics(t *testing.T) {
	refuses := func(m *dns.Msg) { m.Rcode = dns.RcodeRefused }
	truncated := func(m *dns.Msg) { m.Truncated, m.Answer = true, nil }
	good := upstream(t, with(t, nil, "a.example.org. 60 IN A 192.0.2.1"), with(t, nil, "a.example.org. 60 IN A 192.0.2.1"))
	noEDNS := func(reply func([]byte), q asked) {
		if unpack(t, q.wire).IsEdns0() != nil {
			wire := respond(t, q.wire, func(m *dns.Msg) { m.Rcode, m.Extra = dns.RcodeFormatError, nil })
			reply(wire)
			return
		}
		reply(respond(t, q.wire, nil))
	}
	for _, tc := range []struct {
		name string
		ups  []netip.AddrPort
		want map[string]float64
	}{
		{"answer", []netip.AddrPort{good.addr}, map[string]float64{
			"exchanges_total udp answer": 1, "exchange_duration_seconds udp": 1}},
		{"refusal", []netip.AddrPort{upstream(t, with(t, refuses), nil).addr, good.addr}, map[string]float64{
			"exchanges_total udp refusal": 1, "exchanges_total udp answer": 1, "exchange_duration_seconds udp": 2, "retries_total failover": 1}},
		{"silence", []netip.AddrPort{upstream(t, nil, nil).addr, good.addr}, map[string]float64{
			"exchanges_total udp answer": 1, "exchanges_total udp timeout": 1, "exchange_duration_seconds udp": 1, "retries_total resend": 1}},
		{"nobody", []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}, map[string]float64{
			"exchanges_total udp error": 1}},
		{"truncated", []netip.AddrPort{upstream(t, with(t, truncated), with(t, nil, "a.example.org. 60 IN A 192.0.2.1")).addr}, map[string]float64{
			"exchanges_total tcp answer": 1, "exchange_duration_seconds tcp": 1, "retries_total tcp": 1}},
		{"no EDNS", []netip.AddrPort{upstream(t, noEDNS, nil).addr}, map[string]float64{
			"exchanges_total udp answer": 1, "exchange_duration_seconds udp": 1, "retries_total edns": 1, "retries_total cookie": 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, addr := start(t, Config{Upstreams: tc.ups, Resend: 50 * time.Millisecond})
			conn := connect(t, "udp", addr)
			before := scrape(t, s)
			send(t, conn, pack(t, withEDNS(query("a.example.org", dns.TypeA), 1232)))
			receive(t, conn)
			got := make(map[string]float64)
			for name, n := range grown(before, scrape(t, s)) {
				if rest, ok := strings.CutPrefix(name, "upstream_"); ok {
					got[rest] = n
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Those who wait for the answer to another's question are counted, and how many work.
func TestJoinMetrics(t *testing.T) {
	release, began := make(chan struct{}), make(chan struct{}, 1)
	s := before(t, Config{}, &oracle{tb: t, answer: func(req *Request) (*Response, error) {
		began <- struct{}{}
		<-release
		return nil, errors.New("no")
	}})
	first, done := make(chan struct{}), make(chan struct{})
	wire := pack(t, query("a.example.net", dns.TypeA))
	go func() { defer close(first); askWire(t, s, wire, false) }()
	<-began
	go func() { defer close(done); askWire(t, s, wire, false) }()
	for scrape(t, s)["dnsteer_resolver_joins_total"] < 1 {
		if t.Context().Err() != nil {
			t.Fatal("nobody joins")
		}
	}
	close(release)
	<-first
	<-done
	if got := scrape(t, s)["dnsteer_resolver_queries_total udp SERVFAIL failure"]; got != 2 {
		t.Errorf("%v failures", got)
	}
}

// Each layer tells how many names it has, and how many are hidden.
func TestLayerMetrics(t *testing.T) {
	all := NewNames()
	first, second := all.AddLayer("first"), all.AddLayer("second")
	for _, l := range []*Layer{first, second} {
		name := Name{Name: "a.example.org", From: l.Origin(l.Name), Addrs: []netip.Addr{loopback}}
		other := name
		other.Name = l.Name() + ".example.org"
		if err := l.Apply(slices.Values([]Name{name, other})); err != nil {
			t.Fatal(err)
		}
	}
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer all.Follow(s)()
	got := scrape(t, s)
	for name, want := range map[string]float64{
		"dnsteer_table_names": 3, "dnsteer_table_layer_names first": 2, "dnsteer_table_layer_names second": 2,
		"dnsteer_table_hidden_names first": 0, "dnsteer_table_hidden_names second": 1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if want := "a.example.org. of second is already in first, which wins"; second.Hidden() != want || first.Hidden() != "" {
		t.Errorf("hidden: %q, %q", second.Hidden(), first.Hidden())
	}
}

func TestConnectionMetric(t *testing.T) {
	s, addr := start(t, Config{})
	s.SetTable(table(t, "names: {a.example.org: [192.0.2.1]}"))
	conn := connect(t, "tcp", addr)
	send(t, conn, pack(t, query("a.example.org", dns.TypeA)))
	receive(t, conn)
	testenv.Eventually(t, patience, func() error { // counted when the answer has left
		if got := scrape(t, s); got["dnsteer_resolver_connections"] != 1 || got["dnsteer_resolver_queries_total tcp NOERROR table"] != 1 {
			return fmt.Errorf("%v connections, %v queries", got["dnsteer_resolver_connections"], got["dnsteer_resolver_queries_total tcp NOERROR table"])
		}
		return nil
	})
}

// Queries wait with a goroutine (over TCP) and without.
func TestWaitingMetric(t *testing.T) {
	answers := make(chan struct{})
	release := sync.OnceFunc(func() { close(answers) })
	late := func(reply func([]byte), q asked) {
		<-answers
		reply(respond(t, q.wire, nil, good))
	}
	up := upstream(t, late, late)
	s, addr := start(t, Config{Upstreams: []netip.AddrPort{up.addr}, Resend: patience})
	defer release()
	var conns []net.Conn
	for _, network := range []string{"udp", "udp", "tcp"} { // the second one joins
		conn := connect(t, network, addr)
		send(t, conn, pack(t, query("a.example.org", dns.TypeA)))
		conns = append(conns, conn)
	}
	waiting := func(want float64) {
		t.Helper()
		testenv.Eventually(t, patience, func() error {
			if got := scrape(t, s)["dnsteer_resolver_waiting"]; got != want {
				return fmt.Errorf("%v queries wait, want %v", got, want)
			}
			return nil
		})
	}
	waiting(3)
	release()
	for _, conn := range conns {
		wantGood(t, unpack(t, receive(t, conn)))
	}
	waiting(0)
}

// A full cache says so.
func TestEvictionMetric(t *testing.T) {
	s := before(t, Config{CacheBytes: shardCount * maxShare * 1024}, &oracle{tb: t, answer: func(req *Request) (*Response, error) {
		return says(t, nil, req.msg.name.String()+" 60 IN A 192.0.2.1")(req)
	}})
	for i := range 500 {
		askWire(t, s, pack(t, query(fmt.Sprintf("n%d.example.net", i), dns.TypeA)), false)
	}
	got := scrape(t, s)
	if n := got["dnsteer_cache_evictions_total"] + got["dnsteer_cache_entries"]; n != 500 || got["dnsteer_cache_evictions_total"] == 0 {
		t.Errorf("%v evictions, %v entries", got["dnsteer_cache_evictions_total"], got["dnsteer_cache_entries"])
	}
}

// README.md lists every metric, and no other: name, kind, labels, help.
func TestReadmeMetrics(t *testing.T) {
	s := warm(t)
	askWire(t, s, pack(t, query("web.example.org", dns.TypeA)), false)
	all := NewNames()
	if _, err := all.AddLayer("files").SetFiles(yamlSource(storyTable)); err != nil {
		t.Fatal(err)
	}
	defer all.Follow(s)()
	var served []string
	for _, f := range gather(t, s) {
		served = append(served, f.GetName())
	}
	var want, names []string
	for _, m := range allMetrics() {
		names = append(names, m.name)
		labels := "none"
		if len(m.labels) > 0 {
			labels = "`" + strings.Join(m.labels, "`, `") + "`"
		}
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s |", m.name, m.kind, labels, m.help))
	}
	got := regexp.MustCompile("(?m)^\\| `dnsteer_.*$").FindAllString(string(readme(t)), -1)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("README.md (-code +README.md):\n%s", diff)
	}
	slices.Sort(names)
	if diff := cmp.Diff(names, served); diff != "" {
		t.Errorf("served (-listed +served):\n%s", diff)
	}
}

// Durations are counted once, in the bucket that holds them.
func TestHistogram(t *testing.T) {
	var a, b histogram
	a.observe(3, 50*time.Microsecond)
	a.observe(2, 51*time.Microsecond)
	b.observe(1, time.Hour)
	b.observe(1, -time.Second)
	m := sum(&a, &b)
	if m.count != 7 || m.seconds < 3600 || m.seconds > 3601 {
		t.Errorf("%d in %v s", m.count, m.seconds)
	}
	for bound, want := range map[float64]uint64{0.00005: 4, 0.0001: 6, 5: 6} {
		if got := m.buckets[bound]; got != want {
			t.Errorf("%d up to %v s, want %d", got, bound, want)
		}
	}
}

// Each query has one line, from both ways, with what there is to know; or one in some.
func TestQueryLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch {
		case a.Key == slog.TimeKey:
			return slog.Attr{}
		case a.Key == "duration" && a.Value.Duration() > 0 && a.Value.Duration() < time.Minute:
			return slog.String("duration", "some")
		}
		return a
	}}))
	tag := netip.MustParseAddr("127.53.0.7")
	s := warm(t)
	s.queryLog = newQueryLog(log, 0)
	s.own.origin = func(netip.Addr) (netip.Addr, bool) { return netip.MustParseAddr("192.0.2.53"), true }
	client := netip.MustParseAddrPort("192.0.2.1:1234")
	long := func(q *dns.Msg) {
		in := packet{wire: pack(t, q), client: client, local: tag, read: time.Now()}
		if err := s.own.answer(context.Background(), in, func([]byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	short := func(q *dns.Msg) {
		path := s.own.newWirePath()
		if path.answer(nil, pack(t, q), tag, true) == nil {
			t.Fatal("not ready")
		}
		path.log(client, tag, true)
	}
	long(query("web.example.org", dns.TypeA))
	short(query("web.example.org", dns.TypeA))
	long(withEDNS(query("a.example.net", dns.TypeA), 1232))
	long(withEDNS(query("a.example.net", dns.TypeA), 1232))
	long(&dns.Msg{MsgHdr: dns.MsgHdr{Opcode: opcodeDSO}})
	want := `level=INFO msg=query client=192.0.2.1:1234 server=192.0.2.53 protocol=udp qname=web.example.org. qtype=A rcode=NOERROR source=table duration=some
level=INFO msg=query client=192.0.2.1:1234 server=192.0.2.53 protocol=tcp qname=web.example.org. qtype=A rcode=NOERROR source=table duration=some
level=INFO msg=query client=192.0.2.1:1234 server=192.0.2.53 protocol=udp qname=a.example.net. qtype=A rcode=NOERROR source=forward upstream=192.0.2.53:53 duration=some ede=4
level=INFO msg=query client=192.0.2.1:1234 server=192.0.2.53 protocol=udp qname=a.example.net. qtype=A rcode=NOERROR source=cache upstream=192.0.2.53:53 duration=some ede=4
level=INFO msg=query client=192.0.2.1:1234 server=192.0.2.53 protocol=udp rcode=NOTIMP source=failure duration=some ede="21 DNS stateful operations are not served"
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	out.Reset()
	s.queryLog = newQueryLog(log, 10)
	for range 100 {
		long(query("web.example.org", dns.TypeA))
	}
	if got := bytes.Count(out.Bytes(), []byte("\n")); got != 10 {
		t.Errorf("%d lines for 100 queries, one in 10", got)
	}
}

// No label is a name or an address of anybody.
func TestMetricsTellNoNames(t *testing.T) {
	s := warm(t)
	for _, q := range wirePathQueries() {
		askWire(t, s, pack(t, q), false)
	}
	for _, f := range gather(t, s) {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if strings.ContainsAny(l.GetValue(), ".:") {
					t.Errorf("%s has the label %s", f.GetName(), l)
				}
			}
		}
	}
}
