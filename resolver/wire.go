// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// wirePath answers what table and cache have, from wire to wire: no message is
// built, no goroutine started, nothing allocated. What it does not recognise at once
// goes the long way, which gives the same octets (FuzzWirePath).
//
// A wirePath is one loop's.
type wirePath struct {
	*Server
	*Scope
	readyNotes
	q      wireQuery
	tabled answer
	warmed uint32 // for the compiler: what warm reads is used
	// missed says that a query is plain and nothing is known of it, and to who is asked
	// then.
	missed bool
	to     set
}

func (sc *Scope) newWirePath() *wirePath {
	notes := readyNotes{counters: sc.server.metrics.counters(), answered: &sc.answered, read: time.Now()}
	// Many connections ask once: not all of them for the first address.
	return &wirePath{Server: sc.server, Scope: sc, readyNotes: notes, tabled: answer{turn: rand.Uint32()}}
}

// wireQuery is a plain query: one question, perhaps an OPT record.
type wireQuery struct {
	buf      [maxName]byte
	name     []byte // in buf, in lower case
	question int    // end of the question section
	qtype    uint16
	qclass   uint16
	bits     uint16 // as in key
	size     int    // what the client takes
}

// largeTable is how many names the caches of a processor hold no more.
const largeTable = 10_000

// warm reads what a large table has for the names of datagrams that were read together,
// before each of them is answered.
func (p *wirePath) warm(n int, datagram func(int) []byte) {
	t := p.table.Load()
	if n < 2 || t.given < largeTable {
		return
	}
	var hashes [warmMost]uint32
	names := hashes[:0]
	for i := range min(n, warmMost) {
		if wire := datagram(i); len(wire) > headerLen && p.q.readName(wire) {
			names = append(names, hashOf(p.q.name))
		}
	}
	p.warmed = t.names.warm(names)
}

// answer appends to out the reply to a query at a local address, with the two octets
// of its length in front as TCP wants them. It returns nil for the long way. The time
// is that of the last begin.
func (p *wirePath) answer(out, wire []byte, local netip.Addr, tcp bool) []byte {
	p.missed = false
	if !p.q.read(wire, tcp) {
		return nil
	}
	st := p.settings.Load()
	if isTables(p.q.qtype, p.q.qclass) {
		if reply, ok := p.compose(out, wire, st, tcp); ok {
			return reply
		}
	}
	to, ok := p.setFor(st, p.q.name, local)
	if !ok {
		return nil
	}
	if p.cache == nil {
		p.missed, p.to = true, to
		return nil
	}
	seen := false // what has expired, or failed
	for _, qtype := range [...]uint16{p.q.qtype, dns.TypeNone} {
		k, ok := p.cache.findWire(to, &p.q, qtype)
		if k.isFresh(p.read) && (k.tcp || !tcp) {
			if k.isDue(p.read) {
				return nil // the long way fetches it again
			}
			return p.reply(out, wire, k, tcp)
		}
		seen = seen || ok
	}
	p.missed, p.to = !seen, to
	return nil
}

// compose appends what the table answers, or nil if that is for the long way; false if it
// says nothing of the name.
func (p *wirePath) compose(out, wire []byte, st *settings, tcp bool) (reply []byte, ok bool) {
	a := &p.tabled
	defer a.release()
	got := a.compose(append(out, 0, 0), wire[:p.q.question], p.q.name, p.table.Load(), st)
	if got != ours {
		return nil, got != notOurs
	}
	a.turn += turnStep
	if reply = p.finish(a.out, len(out)+2, nil); reply != nil {
		p.add(tcp, fromTable, int(a.rcode), a.expanded || a.denied)
	}
	return reply, true
}

// reply appends an answer of the cache for a query: its ID, its question in its own case,
// and TTLs that have fallen.
func (p *wirePath) reply(out, wire []byte, k *kept, tcp bool) []byte {
	if len(k.wire) > p.q.size {
		return nil
	}
	at := len(out) + 2
	out = append(append(out, 0, 0), k.wire...)
	m := out[at:]
	copy(m[:2], wire[:2])
	copy(m[headerLen:], wire[headerLen:p.q.question])
	if seconds := k.age(p.read); seconds > 0 {
		age(m, k.ttls, seconds)
	}
	reply := p.finish(out, at, k.remarks)
	if reply != nil {
		p.add(tcp, fromCache, int(k.wire[3]&0xf), k.spares(p.q.qtype)) // what is kept has no extended rcode
		p.last.upstream, p.last.remarks = k.upstream, k.remarks
	}
	return reply
}

// finish adds an OPT record to the message that begins at a place, if the query has one, and
// its length before it. It returns nil for more than the client takes.
func (p *wirePath) finish(out []byte, at int, remarks []option) []byte {
	if p.q.bits&keyEDNS != 0 {
		m := out[at:]
		setCount(m, countAR, int(binary.BigEndian.Uint16(m[countAR:]))+1)
		opt := edns{size: udpSize, flags: p.q.bits & doBit, options: remarks}
		out = opt.appendTo(out)
	}
	if len(out)-at > p.q.size {
		return nil
	}
	binary.BigEndian.PutUint16(out[at-2:], uint16(len(out)-at))
	return out
}

// read takes a query apart, or reports that it is for the long way. What it takes has
// a key, and is no mistake.
func (q *wireQuery) read(wire []byte, tcp bool) bool {
	if len(wire) < headerLen+5 {
		return false
	}
	q.bits = binary.BigEndian.Uint16(wire[2:])
	// One question, no answers, no authority, and at most one more record.
	if q.bits&^keyBits != 0 || binary.BigEndian.Uint64(wire[4:])&^1 != 1<<48 {
		return false
	}
	if !q.readName(wire) || q.question > len(wire) {
		return false
	}
	q.qtype = binary.BigEndian.Uint16(wire[q.question-4:])
	q.qclass = binary.BigEndian.Uint16(wire[q.question-2:])
	if !mayShare(q.qtype, q.qclass) {
		return false
	}
	rest := wire[q.question:]
	if wire[countAR+1] == 0 {
		q.size = minSize
		if tcp {
			q.size = maxWire
		}
		return len(rest) == 0
	}
	return q.readOPT(rest, tcp)
}

func (q *wireQuery) readName(wire []byte) bool {
	off := headerLen
	for {
		if off >= len(wire) || wire[off] > maxLabel {
			return false
		}
		n := 1 + int(wire[off])
		if off+n > len(wire) || off+n-headerLen > maxName {
			return false
		}
		off += n
		if n == 1 {
			break
		}
	}
	q.name = q.buf[:copy(q.buf[:], wire[headerLen:off])]
	lower(q.name)
	q.question = off + 4
	return true
}

// readOPT takes an OPT record with no options but those that say nothing to us.
func (q *wireQuery) readOPT(rr []byte, tcp bool) bool {
	// Root, type 41, version 0, no flags but DO, and its length up to the end.
	if len(rr) < optFixed || rr[0] != 0 || rr[1] != 0 || rr[2] != byte(dns.TypeOPT) || rr[5] != 0 || rr[6] != 0 || rr[7]&0x7f != 0 || rr[8] != 0 {
		return false
	}
	if int(binary.BigEndian.Uint16(rr[9:])) != len(rr)-optFixed {
		return false
	}
	q.bits |= uint16(rr[7])<<8 | keyEDNS
	q.size = min(max(minSize, int(binary.BigEndian.Uint16(rr[3:]))), maxDatagram)
	if tcp {
		q.size = maxWire
	}
	for options := rr[optFixed:]; len(options) > 0; {
		if len(options) < 4 {
			return false
		}
		n := 4 + int(binary.BigEndian.Uint16(options[2:]))
		if n > len(options) || !isIdle(binary.BigEndian.Uint16(options), n-4) {
			return false
		}
		options = options[n:]
	}
	return true
}

// isIdle reports options of this hop that change nothing: padding, and a cookie of a
// right length, of which we have none to give back.
func isIdle(code uint16, length int) bool {
	return code == dns.EDNS0PADDING || code == dns.EDNS0COOKIE && isCookie(length)
}

// plainRequest is the Request of a plain query, with its memory in one piece.
type plainRequest struct {
	Request
	memory struct {
		msg     message
		records [1]record
		edns    edns
		wire    [128]byte
	}
}

// set makes of a plain query what newRequest and route make of others. It keeps a copy of
// the wire.
func (r *plainRequest) set(sc *Scope, to set, q *wireQuery, wire []byte) {
	name, m := wireName(q.name), &r.memory
	m.msg = message{wire: append(m.wire[:0], wire...), question: q.question, name: name, qtype: q.qtype, qclass: q.qclass, opt: -1}
	r.Request = Request{scope: sc, msg: &m.msg, keyed: true,
		key: key{set: to, name: name, qtype: q.qtype, qclass: q.qclass, bits: q.bits}}
	if q.bits&keyEDNS != 0 {
		// Its options say nothing to anybody, or it would not be plain.
		m.edns = edns{size: binary.BigEndian.Uint16(wire[q.question+3:]), flags: q.bits & doBit}
		m.records[0] = record{section: inAdditional, start: q.question, data: q.question + optFixed, end: len(wire), typ: dns.TypeOPT, class: m.edns.size}
		m.msg.records, m.msg.opt, r.edns = m.records[:], 0, &m.edns
	}
}

// findWire is find for a question on the wire; ok says that there is anything.
func (c *cache) findWire(to set, q *wireQuery, qtype uint16) (answer *kept, ok bool) {
	s := c.shardOf(q.name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	// Written like this the compiler makes no string of the name.
	e, ok := s.entries[key{set: to, name: wireName(q.name), qtype: qtype, qclass: q.qclass, bits: q.bits}]
	if !ok {
		return nil, false
	}
	if !e.visited.Load() {
		e.visited.Store(true)
	}
	return e.answer, true
}
