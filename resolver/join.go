// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// join lets identical questions wait for one answer: a client that asks again, or a
// hundred that ask at once, cost the upstream one query, and give whoever forges
// answers one chance (RFC 5452 section 5). Each gets the answer with its own ID,
// spelling and size, which is reply.go's work.
func (s *Server) join(next Exchanger) Exchanger {
	s.joins = &joinStage{next: next, joins: &s.metrics.joins, flights: make(flights)}
	return s.joins
}

type joinStage struct {
	next  Exchanger
	joins *atomic.Uint64

	mu      sync.Mutex // guards flights and the waiters of each
	flights flights
}

// flights are questions on their way, by the hash of their keys, which is made once: those
// with the same one follow each other.
type flights map[uint64]*flight

func (s flights) find(k *flightKey) *flight {
	f := s[k.hash]
	for f != nil && f.key != *k {
		f = f.next
	}
	return f
}

func (s flights) add(f *flight) {
	f.next = s[f.key.hash]
	s[f.key.hash] = f
}

// remove takes a flight off the list; another one may stand in its place already.
func (s flights) remove(gone *flight) {
	h := gone.key.hash
	switch first := s[h]; {
	case first == gone && gone.next == nil:
		delete(s, h)
	case first == gone:
		s[h] = gone.next
	default:
		for f := first; f != nil; f = f.next {
			if f.next == gone {
				f.next = gone.next
				return
			}
		}
	}
}

// flightKey is a key with its hash.
type flightKey struct {
	key
	hash uint64
}

func newFlightKey(req *Request) flightKey {
	k := flightKey{key: req.own()}
	k.hash = maphash.String(seed, string(k.name)) ^ uint64(k.qtype) ^ uint64(k.set.scope)<<16
	return k
}

// flight is one question on its way.
type flight struct {
	key     flightKey
	next    *flight // with the same hash
	waiters int
	cancel  context.CancelFunc
	done    chan struct{} // closed when res and err are there; nil if nobody looks
	passage *passage      // nil for a flight with a goroutine
	res     *Response
	err     error
}

func (s *joinStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	if !req.keyed {
		return s.next.Exchange(ctx, req)
	}
	f := s.board(ctx, newFlightKey(req), req)
	defer s.leave(f)
	select {
	case <-f.done:
		return f.res, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// board joins the flight for a question, or starts one. A flight does not end with
// whoever started it, only when nobody waits any more.
func (s *joinStage) board(ctx context.Context, k flightKey, req *Request) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flights.find(&k); f != nil {
		f.waiters++
		s.joins.Add(1)
		if f.done == nil {
			f.done = make(chan struct{})
		}
		return f
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{key: k, waiters: 1, cancel: cancel, done: make(chan struct{})}
	s.flights.add(f)
	go func() {
		res, err := s.next.Exchange(ctx, req)
		s.land(f, res, err)
	}()
	return f
}

// land ends a flight.
func (s *joinStage) land(f *flight, res *Response, err error) {
	if s.close(f) {
		f.res, f.err = res, err
		close(f.done)
	}
}

// close lets nobody join a flight any more, and reports whether somebody looks.
func (s *joinStage) close(f *flight) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flights.remove(f)
	return f.done != nil
}

func (s *joinStage) leave(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiters--; f.waiters == 0 {
		f.cancel()
		s.flights.remove(f) // a flight that is cancelled takes no more passengers
	}
}
