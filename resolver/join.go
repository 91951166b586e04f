// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"sync"
	"sync/atomic"
)

// join lets identical questions wait for one answer: a client that asks again, or a
// hundred that ask at once, cost the upstream one query, and give whoever forges
// answers one chance (RFC 5452 section 5). Each gets the answer with its own ID,
// spelling and size, which is reply.go's work.
func (s *Server) join(next Exchanger) Exchanger {
	s.joins = &joinStage{next: next, joins: &s.metrics.joins, flights: make(map[flightKey]*flight)}
	return s.joins
}

type joinStage struct {
	next  Exchanger
	joins *atomic.Uint64

	mu      sync.Mutex // guards flights and the waiters of each
	flights map[flightKey]*flight
}

// flightKey keeps transports apart: what came by TCP goes on by TCP.
type flightKey struct {
	key
	tcp bool
}

// flight is one question on its way.
type flight struct {
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
	k := flightKey{req.own(), req.TCP}
	f := s.board(ctx, k, req)
	defer s.leave(k, f)
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
	if f, ok := s.flights[k]; ok {
		f.waiters++
		s.joins.Add(1)
		if f.done == nil {
			f.done = make(chan struct{})
		}
		return f
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{waiters: 1, cancel: cancel, done: make(chan struct{})}
	s.flights[k] = f
	go func() {
		res, err := s.next.Exchange(ctx, req)
		s.land(k, f, res, err)
	}()
	return f
}

// land ends a flight.
func (s *joinStage) land(k flightKey, f *flight, res *Response, err error) {
	if s.close(k, f) {
		f.res, f.err = res, err
		close(f.done)
	}
}

// close lets nobody join a flight any more, and reports whether somebody looks.
func (s *joinStage) close(k flightKey, f *flight) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(k, f)
	return f.done != nil
}

func (s *joinStage) leave(k flightKey, f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiters--; f.waiters == 0 {
		f.cancel()
		s.remove(k, f) // a flight that is cancelled takes no more passengers
	}
}

// remove takes a flight off the list; another one may stand in its place already.
func (s *joinStage) remove(k flightKey, f *flight) {
	if s.flights[k] == f {
		delete(s.flights, k)
	}
}
