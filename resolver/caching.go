// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxStale is how long an answer outlives its TTL where the upstream fails:
	// RFC 8767 section 5 wants one to three days, and names in clusters move.
	maxStale = 24 * time.Hour
	// staleTTL is RFC 8767 section 4's.
	staleTTL = 30
	// stalePatience is how long a client waits for the upstream before a stale
	// answer will do (RFC 8767 section 5, client response timer).
	stalePatience = 1800 * time.Millisecond
	// cutLabels is the least depth of a name whose NXDOMAIN takes all names below
	// with it. Resolvers are often told to ask somebody else about a part of a
	// private top-level name that, alone, does not exist.
	cutLabels = 2
	// maxCut leaves room for a longer question: pointers reach 16 kB.
	maxCut = 0x3fff - maxName
)

// lookup answers from the cache.
func (c *cache) lookup(next Exchanger) Exchanger { return &lookupStage{cache: c, next: next} }

// fill keeps the answers that come by. It stands behind join, so that each is kept
// once, and before anybody can ask again.
func (c *cache) fill(next Exchanger) Exchanger { return &fillStage{cache: c, next: next} }

type lookupStage struct {
	*cache
	next Exchanger
}

func (s *lookupStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	if !req.keyed {
		return s.next.Exchange(ctx, req)
	}
	now := time.Now()
	found := s.search(req, now)
	switch {
	case found.fresh:
		s.lookups[lookupHit].Add(1)
		res, err := found.answer.response(req, now)
		if err == nil {
			res.saved = found.above || found.answer.spares(req.msg.qtype)
		}
		if !found.above {
			s.prefetch(ctx, req, found.answer, now)
		}
		return res, err
	case found.fault.holds(now):
		return s.insteadOf(found, found.fault.again(now), req, now)
	case found.answer == nil:
		s.lookups[lookupMiss].Add(1)
		return s.next.Exchange(ctx, req)
	}
	return s.patiently(ctx, req, found)
}

// found is what the cache has for a request.
type found struct {
	answer *kept // fresh, or stale and no older than it may be
	fresh  bool
	above  bool // of a name above: whoever asks goes through a search list, mostly
	fault  *fault
}

// search looks for the question, for a name that does not exist with any type
// (RFC 2308 section 5), and for one above it (RFC 8020).
func (c *cache) search(req *Request, now time.Time) found {
	answer, fault := c.find(req.key)
	if answer.serves(req, now) {
		return found{answer: answer, fresh: true}
	}
	if own := req.own(); own != req.key {
		_, fault = c.find(own)
	}
	k := req.key
	k.qtype = dns.TypeNone
	none, _ := c.find(k)
	if none.serves(req, now) {
		return found{answer: none, fresh: true}
	}
	if answer == nil || none != nil && none.stored.After(answer.stored) {
		answer = none
	}
	for k.name = k.name.parent(); k.name.labels() >= cutLabels; k.name = k.name.parent() {
		if above, _ := c.find(k); above.serves(req, now) && len(above.wire) <= maxCut {
			return found{answer: above, fresh: true, above: true}
		}
	}
	if !answer.isStale(now) {
		answer = nil
	}
	return found{answer: answer, fault: fault}
}

func (n wireName) labels() int {
	count := 0
	for ; n != "" && n != rootName; n = n.parent() {
		count++
	}
	return count
}

// insteadOf is the stale answer, if there is one, for a failure.
func (c *cache) insteadOf(f found, fail *failure, req *Request, now time.Time) (*Response, error) {
	if f.answer == nil {
		c.lookups[lookupMiss].Add(1)
		return nil, fail
	}
	c.lookups[lookupStale].Add(1)
	return f.answer.stale(req, now, fail.text)
}

// patiently asks on, and falls back to a stale answer if that fails or takes too
// long (RFC 8767 section 5). The question stays on its way: its answer is for the
// next client.
func (s *lookupStage) patiently(ctx context.Context, req *Request, found found) (*Response, error) {
	type outcome struct {
		res *Response
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		res, err := s.next.Exchange(ctx, req)
		done <- outcome{res, err}
	}()
	timer := time.NewTimer(stalePatience)
	defer timer.Stop()
	select {
	case o := <-done:
		if f := failureOf(o.res, o.err); f != nil {
			return s.insteadOf(found, f, req, time.Now())
		}
		s.lookups[lookupMiss].Add(1)
		return o.res, o.err
	case <-timer.C:
		s.lookups[lookupStale].Add(1)
		return found.answer.stale(req, time.Now(), "no answer within "+stalePatience.String())
	}
}

type fillStage struct {
	*cache
	next Exchanger
}

func (s *fillStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	epoch := s.epoch.Load()
	res, err := s.next.Exchange(ctx, req)
	if req.keyed {
		s.learn(req, res, err, epoch)
	}
	return res, err
}

// learn keeps what an upstream said, or that it failed to, unless the table has changed
// since epoch.
func (c *cache) learn(req *Request, res *Response, err error, epoch uint64) {
	now, own := time.Now(), req.own()
	answer, before := c.find(own)
	if fault := newFault(res, err, before, now); fault != nil {
		if !answer.isStale(now) {
			answer = nil
		}
		c.put(own, req.client(), epoch, answer, fault)
		return
	}
	if err != nil {
		return
	}
	if before != nil && own != req.key {
		c.drop(own)
	}
	c.keep(req, res, epoch, now)
}

// keep keeps an answer that may be.
func (c *cache) keep(req *Request, res *Response, epoch uint64, now time.Time) {
	if fresh := keep(res, now); fresh != nil {
		c.put(fresh.keyFor(req.key), req.client(), epoch, fresh, nil)
	}
}

// keyFor is where an answer belongs: one that says that the name does not exist
// belongs to all of its types.
func (k *kept) keyFor(asked key) key {
	if k.kind == noName {
		asked.qtype = dns.TypeNone
	}
	return asked
}
