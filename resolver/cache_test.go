// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

var (
	clientA = netip.MustParseAddr("192.0.2.1")
	clientB = netip.MustParseAddr("192.0.2.2")
	setA    = netip.MustParseAddrPort("198.51.100.1:53")
	setB    = netip.MustParseAddrPort("198.51.100.2:53")
)

// setOf is the set of a nameserver that was meant.
func setOf(server netip.AddrPort) set { return set{server: server} }

// numbered is the key of one of many names, with an answer made for it.
func numbered(tb testing.TB, set netip.AddrPort, prefix string, i int) (key, *kept) {
	tb.Helper()
	name, err := parseName(fmt.Sprintf("%s%d.example.org", prefix, i))
	if err != nil {
		tb.Fatal(err)
	}
	q := withEDNS(query(name.String(), dns.TypeA), 1232)
	m, err := parseMessage(respond(tb, pack(tb, q), nil, name.String()+" 60 IN A 192.0.2.1"))
	if err != nil {
		tb.Fatal(err)
	}
	answer := keep(&Response{msg: m, upstream: set}, time.Now())
	if answer == nil {
		tb.Fatal("not kept")
	}
	return key{set: setOf(set), name: name, qtype: dns.TypeA, qclass: dns.ClassINET, bits: bitRD}, answer
}

func fill(tb testing.TB, c *cache, from netip.Addr, set netip.AddrPort, prefix string, n int) {
	tb.Helper()
	for i := range n {
		k, answer := numbered(tb, set, prefix, i)
		c.put(k, client{addr: from}, 0, answer, nil)
	}
}

// held counts what is left of the names that fill put in.
func held(tb testing.TB, c *cache, set netip.AddrPort, prefix string, n int) int {
	tb.Helper()
	count := 0
	for i := range n {
		k, _ := numbered(tb, set, prefix, i)
		s := c.shard(k.name)
		if _, ok := s.entries[k]; ok {
			count++
		}
	}
	return count
}

// The bound is in octets, and it holds for what the process really uses.
func TestCacheMemory(t *testing.T) {
	before := int(testenv.Heap())
	const limit = 4 << 20
	c := newCache(limit)
	fill(t, c, clientA, setA, "n", 20000)
	used := int(testenv.Heap()) - before
	if used > limit*5/4 || used < limit/3 {
		t.Errorf("%d octets used, the limit is %d", used, limit)
	}
	sum := 0
	for i := range c.shards {
		sum += c.shards[i].octets
	}
	if sum > limit || sum < limit*9/10 {
		t.Errorf("%d octets counted, the limit is %d", sum, limit)
	}
	c.purge(func(*cached) bool { return true }, false)
	for i := range c.shards {
		s := &c.shards[i]
		if s.octets != 0 || len(s.entries) != 0 {
			t.Errorf("shard %d holds %d octets in %d entries", i, s.octets, len(s.entries))
		}
		for _, lot := range s.lots {
			if lot.octets != 0 {
				t.Errorf("a lot of shard %d holds %d octets", i, lot.octets)
			}
			for _, q := range lot.upstreams {
				if q.octets != 0 || q.newest != nil || q.oldest != nil || q.hand != nil {
					t.Errorf("a list of shard %d is not empty: %+v", i, q)
				}
			}
		}
	}
}

// One client, or one nameserver, cannot push out what others use.
func TestCacheIsShared(t *testing.T) {
	const few, many = 300, 30000
	for _, tc := range []struct {
		name   string
		client netip.Addr
		set    netip.AddrPort
	}{
		{"another client", clientB, setA},
		{"another nameserver", clientA, setB},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCache(2 << 20)
			// Two may meet in one lot; then nothing keeps them apart.
			for lotOf(c, clientA, setA) == lotOf(c, tc.client, tc.set) {
				c = newCache(2 << 20)
			}
			fill(t, c, clientA, setA, "mine", few)
			fill(t, c, tc.client, tc.set, "flood", many)
			if got := held(t, c, setA, "mine", few); got != few {
				t.Errorf("%d of %d left", got, few)
			}
			if got := held(t, c, tc.set, "flood", many); got < 1000 {
				t.Errorf("only %d of the others", got)
			}
		})
	}
}

func lotOf(c *cache, from netip.Addr, server netip.AddrPort) [2]uint8 {
	k, answer := key{set: setOf(server), name: rootName}, (*kept)(nil)
	c.put(k, client{addr: from}, c.epoch.Load(), answer, nil)
	e := c.shard(rootName).entries[k]
	return [2]uint8{e.client, e.upstream}
}

// Names in use outlive names that were asked for once, of the same client too.
func TestCacheKeepsWhatIsUsed(t *testing.T) {
	c := newCache(2 << 20)
	const hot = 300
	fill(t, c, clientA, setA, "hot", hot)
	for i := range 200 {
		for j := range 100 {
			k, answer := numbered(t, setA, fmt.Sprintf("once%d-", i), j)
			c.put(k, client{addr: clientA}, 0, answer, nil)
		}
		for j := range hot {
			k, _ := numbered(t, setA, "hot", j)
			c.find(k)
		}
	}
	if got := held(t, c, setA, "hot", hot); got != hot {
		t.Errorf("%d of %d left", got, hot)
	}
}

// An answer that would take too much is not kept at all.
func TestCacheRefusesGiants(t *testing.T) {
	c := newCache(shardCount * 8 * 1024)
	k, answer := numbered(t, setA, "n", 1)
	answer.wire = make([]byte, 2000)
	if c.put(k, client{addr: clientA}, 0, answer, nil); c.shard(k.name).octets != 0 {
		t.Error("was kept")
	}
}

// Lists and sums stay right whatever happens in which order.
func TestSieve(t *testing.T) {
	var q sieve
	var in []*cached
	random := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		switch n := random.IntN(8); {
		case n < 3 || len(in) == 0:
			e := &cached{octets: 1 + random.IntN(9)}
			q.add(e)
			in = append(in, e)
		case n < 5:
			in[random.IntN(len(in))].visited.Store(true)
		case n < 6:
			i := random.IntN(len(in))
			q.remove(in[i])
			in = append(in[:i], in[i+1:]...)
		default:
			e := q.victim()
			q.remove(e)
			for i := range in {
				if in[i] == e {
					in = append(in[:i], in[i+1:]...)
					break
				}
			}
		}
		count, octets := 0, 0
		for e := q.oldest; e != nil; e = e.newer {
			count, octets = count+1, octets+e.octets
		}
		if count != len(in) || octets != q.octets {
			t.Fatalf("%d entries of %d octets, want %d; sum %d", count, octets, len(in), q.octets)
		}
	}
}

// FuzzAge keeps any answer: time changes nothing but TTLs, each of which falls by it,
// and a longer question (RFC 8020) changes no record.
func FuzzAge(f *testing.F) {
	seed := func(m *dns.Msg, rcode int, records ...string) {
		wire := respond(f, pack(f, m), authority(f, rcode, "example.org. 300 IN SOA ns.example.org. h.example.org. 1 2 3 4 77"), records...)
		f.Add(wire, uint16(5))
	}
	seed(withEDNS(query("a.example.org", dns.TypeA), 1232), 0, "a.example.org. 60 IN CNAME b.example.org.", "b.example.org. 99 IN A 192.0.2.1")
	seed(query("a.example.org", dns.TypeA), dns.RcodeNameError)
	seed(query("a.example.org", 65280), 0, `a.example.org. 60 IN TYPE65280 \# 4 c00c0001`)
	f.Fuzz(func(t *testing.T, wire []byte, seconds uint16) {
		m, err := parseMessage(wire)
		if err != nil {
			return
		}
		now := time.Unix(1, 0)
		k := keep(&Response{msg: m}, now)
		if k == nil {
			return
		}
		q := m.headOnly()
		setFlags(q.wire, 0)
		req := &Request{msg: q}
		whole, wholeErr := k.response(req, now)
		aged, err := k.response(req, now.Add(time.Duration(seconds)*time.Second))
		if err != nil || wholeErr != nil {
			t.Fatalf("%x: %v, %v", wire, wholeErr, err)
		}
		for i, r := range whole.msg.records {
			then, later := ttlOf(whole.msg.wire, r), ttlOf(aged.msg.wire, aged.msg.records[i])
			if later != then-min(then, uint32(seconds)) {
				t.Errorf("%x: TTL %d became %d after %d s", wire, then, later, seconds)
			}
			setTTLs(aged.msg.wire, []uint16{uint16(r.data - 6)}, then)
		}
		if string(whole.msg.wire) != string(aged.msg.wire) {
			t.Errorf("%x: more than TTLs changed: %x", wire, aged.msg.wire)
		}
		if k.kind == noName && len(m.name) < maxName-2 && len(k.wire) <= maxCut {
			checkCut(t, k, whole, req.derive("\x01x"+m.name), now)
		}
	})
}

// checkCut compares the answer to a question with that to one below it.
func checkCut(t *testing.T, k *kept, whole *Response, req *Request, now time.Time) {
	below, err := k.response(req, now)
	if err != nil {
		t.Fatalf("%x: %v", k.wire, err)
	}
	var want, got dns.Msg
	if want.Unpack(whole.msg.wire) != nil {
		return
	}
	if err := got.Unpack(below.msg.wire); err != nil {
		t.Fatalf("%x became %x: %v", whole.msg.wire, below.msg.wire, err)
	}
	for i, rr := range want.Ns {
		if _, known := namesIn(rr.Header().Rrtype); known > 0 && rr.String() != got.Ns[i].String() {
			t.Errorf("%s became %s", rr, got.Ns[i])
		}
	}
}
