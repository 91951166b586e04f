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
	asked      plainRequest
	flight     flight
	epoch      uint64
	passengers []passenger // guarded by joinStage.mu while the flight is on its list
	first      [1]passenger
	res        Response

	due         time.Time // when silence is too long
	work        context.Context
	older, next *passage // on the scope's list, which it is on if it is watched
	watched     bool
}

// passenger is a client who waits for a passage.
type passenger struct {
	*serving
	socket *mmsg.Socket
	from   mmsg.Peer
	in     packet // without its wire
	req    *Request
}

// spent is the memory of passages that went smoothly: nobody refers to them any more.
var spent = sync.Pool{New: func() any { return new(passage) }}

// depart answers the query of datagram i, which the wire path has missed, without a
// goroutine; false if it needs one. It does not block.
func (l *udpLoop) depart(b *mmsg.Batch, i int) bool {
	q, to := &l.path.q, l.path.to
	if l.forwarder == nil || l.isSpecial(l.settings.Load(), q.name) || suffixAt(q.name, loopSuffix) > 0 || l.cache.hasSeen(to, q, l.number) || l.enter(to) != nil {
		return false
	}
	p := spent.Get().(*passage)
	p.asked.set(l.Scope, to, q, b.Datagram(i))
	in := packet{client: b.Client(i), local: b.Local(i), read: l.path.read, counters: l.path.counters}
	p.asked.Client, p.asked.Local = in.client, in.local
	p.first[0] = passenger{l.serving, l.socket, *b.From(i), in, &p.asked.Request}
	if !l.board(p) {
		l.leave(to)
		return false
	}
	return true
}

// hasSeen reports whether the cache may have something to say about a question beyond its
// answer: a failure, or a name above that does not exist.
func (c *cache) hasSeen(to set, q *wireQuery, scope uint32) bool {
	if c == nil {
		return false
	}
	own := key{set: to, qtype: q.qtype, qclass: q.qclass, bits: q.bits}
	if own.set.scope = scope; own.set != to && c.has(q.name, own) {
		return true
	}
	above := key{set: to, qtype: dns.TypeNone, qclass: q.qclass, bits: q.bits}
	labels := 0
	for at := 0; q.name[at] > 0; at += 1 + int(q.name[at]) {
		labels++
	}
	for at := 0; labels > cutLabels; labels-- {
		at += 1 + int(q.name[at])
		if c.has(q.name[at:], above) {
			return true
		}
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

// board puts the client of a passage on the one that is on its way for its question, or
// sends it; false if it needs a goroutine.
func (l *udpLoop) board(p *passage) bool {
	req := &p.asked.Request
	if !l.head(req) {
		return false
	}
	st := l.settings.Load()
	up, wait := l.peer, st.pace.resend
	if len(req.upstreams) > 1 {
		up = l.choose(st, l.peersOf(req.upstreams))[0]
		wait = up.patience(wait)
	}
	if up.up.transport != plainDNS || up.isLooping(l.path.read) || !l.hasPort(up) {
		return false
	}
	p.try = try{peer: up, req: up.cases.spell(req, l.path.read), opt: req.edns, network: "udp", start: l.path.read, to: p}
	p.flight = flight{key: newFlightKey(req), waiters: 1, passage: p} // its passengers never leave
	p.passengers = p.first[:]
	p.due, p.work = p.start.Add(wait), l.work
	if l.cache != nil {
		p.epoch = l.cache.epoch.Load()
	}
	l.serving.queries.Add(1)
	started, ok := l.joins.start(p)
	if !ok {
		l.serving.queries.Done()
	}
	if !started {
		return ok
	}
	l.hedges.earn()
	if l.cache != nil {
		l.cache.lookups[lookupMiss].Add(1)
	}
	up.asks()
	l.watch(p)
	if !l.send(p) && l.passages.remove(p) {
		r := l.forwarder.newRace(req, p.start)
		go p.finish(r, r.begin(p.work), r.launch)
	}
	return true
}

// heading is where the queries of a batch go, found out once.
type heading struct {
	to        set
	upstreams []Upstream
	peer      *peer // the first upstream's
	from      *port // which the queries leave from
}

// head finds out who is asked for a request; false if nobody can be.
func (l *udpLoop) head(req *Request) bool {
	if l.upstreams == nil || l.to != req.key.set {
		ups, err := l.upstreamsFor(req)
		if err != nil {
			return false
		}
		l.heading = heading{to: req.key.set, upstreams: ups, peer: l.peerOf(ups[0]), from: l.from}
	}
	req.upstreams = l.upstreams
	return true
}

// start lets others join a passage; started is false where there is one for the question,
// which its client has joined, and ok where a goroutine asks already.
func (s *joinStage) start(p *passage) (started, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flights.find(&p.flight.key)
	switch {
	case f == nil:
		s.flights.add(&p.flight)
		return true, true
	case f.passage == nil:
		return false, false
	}
	s.joins.Add(1)
	f.passage.passengers = append(f.passage.passengers, p.first[0])
	return false, true
}

// hasPort draws the port that the queries of the batch leave from, with one system call:
// whoever sees them sees them at once. It is false where too few are open.
func (l *udpLoop) hasPort(up *peer) bool {
	if l.from == nil || l.from.peer != up {
		l.from = up.readyPort(l.path.read)
	}
	return l.from != nil && l.from.socket != nil
}

// send sends a passage; false if the ports have closed meanwhile.
func (l *udpLoop) send(p *passage) bool {
	for l.hasPort(p.peer) {
		from := l.from
		if id, ok := p.peer.reserve(from, &p.try); ok {
			if p.waits(from, id) {
				wire := outgoing(l.queries.Buffer(), p.req, id, p.opt)
				p.left.Store(true) // its memory may serve another from now on
				l.queries.Send(from.socket, wire)
			} else {
				from.forget(&p.try, id)
			}
			return true
		}
		l.from = nil // it takes no more
	}
	return false
}

// take implements taker: a good answer ends the passage, anything else is for a race.
func (p *passage) take(t *try, d delivery) {
	ours := p.req.scope.passages.remove(p)
	if d.err != nil || t.isSuspect(d.reply) || isPoor(d.reply) || d.reply.isTruncated() || t.lacksEDNS(d.reply) {
		p.goOn(d)
		return
	}
	t.done.Store(true)
	took := d.in.now.Sub(t.start)
	p.peer.answeredAt(d.in.now, took)
	p.req.metrics().exchanged(false, took, outcomeAnswer)
	p.res = Response{msg: d.reply.withQuestion(p.req), upstream: p.peer.up.addr}
	if s := p.req.scope.server; s.cache != nil {
		s.cache.keep(p.req, &p.res, p.epoch, d.in.now)
	}
	if p.land() {
		ours = false
		p.res.msg = p.res.msg.clone() // which others look at later
		p.flight.res = &p.res
		close(p.flight.done)
	}
	for i := range p.passengers {
		c := &p.passengers[i]
		wire, said := c.compose(d.in.out.Buffer(), c.req, &p.res, nil)
		d.in.out.Reply(c.socket, wire, 0, c.in.local, &c.from)
		c.note(c.in, c.req, said, d.in.now)
		c.leave(c.req.key.set)
		d.in.served = append(d.in.served, c.serving)
	}
	if ours {
		*p = passage{}
		spent.Put(p)
	}
}

// overdue begins a race in which the passage's own try is still on its way.
func (p *passage) overdue() {
	r, end := p.race()
	if !p.handOver(r) {
		end() // what has come just now goes on without
		return
	}
	r.startWith(&p.try)
	go p.finish(r, end, r.overdue)
}

// goOn begins a race with an answer that is none.
func (p *passage) goOn(d delivery) {
	r, end := p.race()
	r.startWith(&p.try)
	p.try.mu.Lock()
	p.to = r
	p.try.mu.Unlock()
	d = delivery{reply: d.reply.clone(), err: d.err}
	go p.finish(r, end, func() { r.take(&p.try, d) })
}

func (p *passage) race() (r *race, end func()) {
	r = p.req.scope.server.forwarder.newRace(p.req, p.start)
	return r, r.begin(p.work)
}

func (p *passage) finish(r *race, end, first func()) {
	defer end()
	first()
	p.end(r.run())
}

// end gives what a race has brought to all who wait.
func (p *passage) end(res *Response, err error) {
	if s := p.req.scope.server; s.cache != nil {
		s.cache.learn(p.req, res, err, p.epoch)
	}
	if p.land() {
		p.flight.res, p.flight.err = res, err
		close(p.flight.done)
	}
	for _, c := range p.passengers {
		_ = c.conclude(c.in, c.req, res, err, func(wire []byte) error {
			if err := c.socket.WriteTo(wire, c.in.local, c.in.client); err != nil {
				c.notSent(c.socket.Conn(), err)
			}
			return nil
		})
		c.leave(c.req.key.set)
		c.serving.queries.Done()
	}
}

// land lets nobody join any more, and reports whether a goroutine waits too.
func (p *passage) land() bool { return p.req.scope.server.joins.close(&p.flight) }

// passages are those of a scope that wait, the newest first.
type passages struct {
	mu     sync.Mutex // guards what follows
	newest *passage
	timer  *time.Timer // runs while there are any
}

// patrol is how often passages are looked at, and how much later than due a query is
// sent again.
const patrol = 20 * time.Millisecond

// watch sees to it that silence has an end.
func (sc *Scope) watch(p *passage) {
	w := &sc.passages
	w.mu.Lock()
	defer w.mu.Unlock()
	p.older, p.watched = w.newest, true
	if w.newest != nil {
		w.newest.next = p
	}
	w.newest = p
	if w.timer == nil {
		w.timer = time.AfterFunc(patrol, w.look)
	}
}

// remove takes a passage off the list, true for the first who does.
func (w *passages) remove(p *passage) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !p.watched {
		return false
	}
	w.unlink(p)
	return true
}

func (w *passages) unlink(p *passage) {
	if p.next != nil {
		p.next.older = p.older
	} else {
		w.newest = p.older
	}
	if p.older != nil {
		p.older.next = p.next
	}
	p.older, p.next, p.watched = nil, nil, false
}

// look makes races of passages that are due.
func (w *passages) look() {
	now := time.Now()
	var due []*passage
	w.mu.Lock()
	for p := w.newest; p != nil; {
		older := p.older
		if !now.Before(p.due) {
			w.unlink(p)
			due = append(due, p)
		}
		p = older
	}
	if w.timer = nil; w.newest != nil {
		w.timer = time.AfterFunc(patrol, w.look)
	}
	w.mu.Unlock()
	for _, p := range due {
		p.overdue()
	}
}
