// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// enoughOwed names without an answer, and no answer in between, are a dead server.
	// One name alone may be what a server cannot answer.
	enoughOwed = 3
	// firstBackOff and maxBackOff bound how long a dead server is asked last. Then one
	// query finds out whether it is back, later each time.
	firstBackOff, maxBackOff = time.Second, 30 * time.Second
	// halfLife is how fast a measurement loses its weight: a server that was slow is
	// tried again.
	halfLife = 30 * time.Second
	// minHedge and hedgeCost keep hedges few. A query is asked elsewhere too when its
	// server is later than usual, not before minHedge, and for one in hedgeCost
	// queries at most, with a burst of hedgeBurst.
	minHedge              = 50 * time.Millisecond
	hedgeCost, hedgeBurst = 20, 10
	// band is how much slower a server may be that stands before another one in the
	// list: below, differences are noise.
	band = 2
	// bandFloor is for servers that are near.
	bandFloor = 2 * time.Millisecond
)

// health is what a peer's answers, and their want, tell. peer.mu guards it.
type health struct {
	// usual and spread are the smoothed time of an answer and its deviation, as
	// RFC 6298 section 2 has them; zero means that none has come.
	usual, spread time.Duration
	measured      time.Time
	owed          []wireName // names that it owes an answer, each once
	backOff       time.Duration
	until         time.Time // it is asked last until then
}

// learn notes the outcome of a try. A poor answer says nothing yet: the name may
// deserve it.
func (p *peer) learn(a attempt) {
	switch {
	case a.err != nil:
		p.failed(a.err)
	case !isPoor(a.reply):
		p.answered(a.took)
	}
}

// answered notes that the peer lives, and how long it took.
func (p *peer) answered(took time.Duration) { p.answeredAt(time.Now(), took) }

func (p *peer) answeredAt(now time.Time, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &p.health
	if h.usual == 0 {
		h.usual, h.spread = took, took/2
	} else {
		h.spread += (max(took-h.usual, h.usual-took) - h.spread) / 4
		h.usual += (took - h.usual) / 8
	}
	h.measured = now
	h.owed, h.backOff, h.until = nil, 0, time.Time{}
}

// late notes that another one was faster: an answer takes that long at least.
func (p *peer) late(waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := &p.health; waited > h.usual {
		h.usual += (waited - h.usual + 7) / 8
		h.measured = time.Now()
	}
}

// owes notes that a name got no answer in time, or a poor one where another server had
// a good one.
func (p *peer) owes(name wireName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &p.health
	if !slices.Contains(h.owed, name) {
		h.owed = append(h.owed, name)
	}
	if len(h.owed) >= enoughOwed {
		h.rest(time.Now())
	}
}

// failed notes an error on the way. It says that nobody is there, or not whom we want,
// whatever the name; silence and the end of a connection do not.
func (p *peer) failed(err error) {
	if isTimeout(err) || errors.Is(err, errClosed) || errors.Is(err, net.ErrClosed) || isMalformed(err) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.health.rest(time.Now())
}

// rest backs off; failures of queries that were on their way together count once.
func (h *health) rest(now time.Time) {
	if h.owed = nil; now.Before(h.until) {
		return
	}
	h.backOff = min(max(2*h.backOff, firstBackOff), maxBackOff)
	h.until = now.Add(h.backOff)
}

// standing is where a peer stands among others.
type standing struct {
	*peer
	dead  bool
	probe bool // its time of rest is over: one query finds out
	usual time.Duration
}

// asks notes that a query goes out. If it is to find out whether the peer is back, the
// others do not, and the next one comes later.
func (p *peer) asks() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := &p.health; h.backOff > 0 {
		h.rest(time.Now())
	}
}

// stand tells a peer's standing.
func (p *peer) stand(now time.Time) standing {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &p.health
	s := standing{peer: p, usual: h.usual, dead: h.backOff > 0}
	s.probe = s.dead && !now.Before(h.until)
	if !h.measured.IsZero() {
		s.usual = h.usual >> min(now.Sub(h.measured)/halfLife, 30)
	}
	return s
}

// choose brings the upstreams of a query into order: those that answer fast first,
// the list's order among those that are about as fast; or each in turn, if the clients
// want it so. Dead ones are last, but for one query now and then that finds out
// whether they are back.
func (sc *Scope) choose(st *settings, ups []*peer) []*peer {
	if len(ups) == 1 {
		return ups
	}
	now := time.Now()
	list := make([]standing, len(ups))
	turn := 0
	if st.given.Rotate {
		turn = int(sc.turn.Add(1) % uint32(len(ups)))
	}
	for i := range ups {
		list[i] = ups[(i+turn)%len(ups)].stand(now)
	}
	best := fastest(list)
	slices.SortStableFunc(list, func(a, b standing) int { return a.class(best, st.given.Rotate) - b.class(best, st.given.Rotate) })
	out := make([]*peer, len(list))
	for i, s := range list {
		out[i] = s.peer
	}
	return out
}

func fastest(list []standing) time.Duration {
	best := time.Duration(-1)
	for _, s := range list {
		if !s.dead && (best < 0 || s.usual < best) {
			best = s.usual
		}
	}
	return best
}

// class is 0 for a probe, 1 for who is about as fast as the fastest, more for who is
// slower, and most for the dead.
func (s standing) class(best time.Duration, rotate bool) int {
	const dead = 1 << 20
	switch {
	case s.probe:
		return 0
	case s.dead:
		return dead
	case rotate || s.usual <= max(band*best, bandFloor):
		return 1
	}
	return 2 + int(min(s.usual.Milliseconds(), dead/2))
}

// patience is how long to wait for a peer before another one is asked as well: what
// its answers usually take, and some more.
func (p *peer) patience(resend time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &p.health
	if h.backOff > 0 {
		return min(minHedge, resend)
	}
	if h.usual == 0 {
		return resend
	}
	return min(max(minHedge, h.usual+4*h.spread), resend)
}

func (p *peer) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.health.backOff > 0
}

// hedges is the right to ask a second server: each query gives a part of one.
type hedges struct{ credit atomic.Int32 }

func (h *hedges) earn() {
	if h.credit.Load() < hedgeCost*hedgeBurst {
		h.credit.Add(1)
	}
}

func (h *hedges) pay() bool {
	if h.credit.Add(-hedgeCost) >= 0 {
		return true
	}
	h.credit.Add(hedgeCost)
	return false
}
