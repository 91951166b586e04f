// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/resolver/internal/mmsg"
)

// passage is a plain query on its way to its upstream and back without a goroutine:
// the loop of the client's socket sends it, the loop of the upstream's socket answers
// it. Whatever does not go smoothly (silence, a refusal, a truncated answer) becomes a
// race, which goes on where the passage was.
type passage struct {
	try
	flight     *flight
	key        flightKey
	epoch      uint64
	passengers []passenger // guarded by joinStage.mu while the flight is on its list
	due        time.Time   // when silence is too long
	work       context.Context
}

// passenger is a client who waits for a passage.
type passenger struct {
	*serving
	socket *mmsg.Socket
	in     packet
	req    *Request
}

// depart answers a query that the wire path has missed, without a goroutine; false if
// it needs one. It does not block.
func (v *serving) depart(u *mmsg.Socket, in packet, to set, q *wireQuery) bool {
	if v.forwarder == nil || v.isSpecial(v.settings.Load(), q.name) || v.cache.hasSeen(to, q, v.number) {
		return false
	}
	req, err := newRequest(in)
	if err != nil {
		return false
	}
	req.scope = v.Scope
	if req.key, req.keyed = newKey(to, req); !req.keyed {
		return false
	}
	if req.upstreams, err = v.upstreamsFor(req); err != nil || v.enter() != nil {
		return false
	}
	v.queries.Add(1)
	if v.board(passenger{v, u, in, req}) {
		return true
	}
	v.queries.Done()
	v.leave()
	return false
}

// hasSeen reports whether the cache may have something to say about a question: an
// answer that has expired, a failure, or a name above that does not exist.
func (c *cache) hasSeen(to set, q *wireQuery, scope uint32) bool {
	if c == nil {
		return false
	}
	own := to
	own.scope = scope
	k := key{set: to, qtype: q.qtype, qclass: q.qclass, bits: q.bits}
	if c.has(q.name, k) || c.has(q.name, key{set: own, qtype: q.qtype, qclass: q.qclass, bits: q.bits}) {
		return true
	}
	k.qtype = dns.TypeNone
	labels := 0
	for at := 0; q.name[at] > 0; at += 1 + int(q.name[at]) {
		labels++
	}
	for at := 0; labels >= cutLabels || at == 0; labels-- {
		if c.has(q.name[at:], k) {
			return true
		}
		if q.name[at] == 0 {
			break
		}
		at += 1 + int(q.name[at])
	}
	return false
}

// has reports whether there is an entry for a name and the rest of a key.
func (c *cache) has(name []byte, k key) bool {
	s := c.shardOf(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.entries[key{set: k.set, name: wireName(name), qtype: k.qtype, qclass: k.qclass, bits: k.bits}]
	return ok
}

// board puts a client on the passage for its question, or sends one.
func (v *serving) board(c passenger) bool {
	k := flightKey{c.req.own(), false}
	if joined, ok := v.joins.boardPassage(k, c); joined || !ok {
		return joined
	}
	st := v.settings.Load()
	up, wait := v.peerOf(c.req.upstreams[0]), st.pace.resend
	if len(c.req.upstreams) > 1 {
		up = v.choose(st, v.peersOf(c.req.upstreams))[0]
		wait = up.patience(wait)
	}
	if up.up.transport != plainDNS {
		return false
	}
	v.hedges.earn()
	now := time.Now()
	p := &passage{try: try{peer: up, req: up.cases.spell(c.req, now), opt: c.req.edns, network: "udp", start: now}, key: k, due: now.Add(wait), work: v.work, passengers: []passenger{c}}
	p.to = p
	if v.cache != nil {
		p.epoch = v.cache.epoch.Load()
	}
	from, id := up.reserveReady(&p.try)
	if from == nil {
		return false
	}
	if !v.joins.start(k, p) {
		from.forget(&p.try, id)
		return false // somebody was faster
	}
	if v.cache != nil {
		v.cache.lookups[lookupMiss].Add(1)
	}
	v.watch(p)
	up.asks()
	if err := from.send(&p.try, id); err != nil {
		p.deliver(nil, err)
	}
	return true
}

// boardPassage joins a passage; ok is false where a flight with a goroutine is on its
// way, for which a goroutine waits.
func (s *joinStage) boardPassage(k flightKey, c passenger) (joined, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flights[k]
	if f == nil {
		return false, true
	}
	if f.passage == nil {
		return false, false
	}
	s.joins.Add(1)
	f.passage.passengers = append(f.passage.passengers, c)
	return true, true
}

// start notes a passage for others to join.
func (s *joinStage) start(k flightKey, p *passage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights[k] != nil {
		return false
	}
	p.flight = &flight{waiters: 1, passage: p} // its passengers never leave
	s.flights[k] = p.flight
	return true
}

// take implements taker: a good answer ends the passage, anything else is for a race.
func (p *passage) take(t *try, reply *message, err error) {
	if err == nil && !t.isSuspect(reply) && !isPoor(reply) && !reply.isTruncated() && !t.lacksEDNS(reply) {
		t.done.Store(true)
		took := time.Since(t.start)
		p.peer.answered(took)
		p.req.metrics().exchanged(false, took, outcomeAnswer)
		p.end(&Response{msg: reply.withQuestion(p.req), upstream: p.peer.up.addr}, nil)
		return
	}
	p.goOn(reply, err)
}

// overdue begins a race in which the passage's own try is still on its way.
func (p *passage) overdue() {
	r, end := p.race()
	if !p.handOver(r) {
		end() // the answer has come just now
		return
	}
	go p.finish(r, end, r.overdue)
}

// goOn begins a race with an answer that is none.
func (p *passage) goOn(reply *message, err error) {
	r, end := p.race()
	p.try.mu.Lock()
	p.to = r
	p.try.mu.Unlock()
	go p.finish(r, end, func() { r.take(&p.try, reply, err) })
}

func (p *passage) race() (r *race, end func()) {
	r = p.req.scope.server.forwarder.newRace(p.req, p.start)
	r.startWith(&p.try)
	return r, r.begin(p.work)
}

func (p *passage) finish(r *race, end, first func()) {
	defer end()
	first()
	p.end(r.run())
}

// end keeps what came, and gives it to all who wait.
func (p *passage) end(res *Response, err error) {
	s := p.req.scope.server
	if s.cache != nil {
		s.cache.learn(p.req, res, err, p.epoch)
	}
	s.joins.land(p.key, p.flight, res, err)
	for _, c := range p.passengers {
		_ = c.conclude(c.in, c.req, res, err, func(wire []byte) error {
			if err := c.socket.WriteTo(wire, c.in.local, c.in.client); err != nil {
				c.notSent(c.socket, err)
			}
			return nil
		})
		c.leave()
		c.queries.Done()
	}
}

// passages are those of a scope that wait, in no order.
type passages struct {
	mu    sync.Mutex // guards what follows
	list  []*passage
	timer *time.Timer // runs while there are any
}

// patrol is how often passages are looked at, and how much later than due a query is
// sent again.
const patrol = 20 * time.Millisecond

// watch sees to it that silence has an end.
func (sc *Scope) watch(p *passage) {
	w := &sc.passages
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, p)
	if w.timer == nil {
		w.timer = time.AfterFunc(patrol, w.look)
	}
}

// look lets go of passages that are over, and makes races of those that are due.
func (w *passages) look() {
	now := time.Now()
	var due []*passage
	w.mu.Lock()
	kept := w.list[:0]
	for _, p := range w.list {
		switch {
		case p.isDelivered():
		case now.Before(p.due):
			kept = append(kept, p)
		default:
			due = append(due, p)
		}
	}
	clear(w.list[len(kept):])
	w.list = kept
	if w.timer = nil; len(kept) > 0 {
		w.timer = time.AfterFunc(patrol, w.look)
	} else {
		w.list = nil
	}
	w.mu.Unlock()
	for _, p := range due {
		p.overdue()
	}
}
