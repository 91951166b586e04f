// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync/atomic"

	"github.com/miekg/dns"
)

// limit refuses at once what would be more queries waiting for upstreams than a scope,
// or all of them, may have, or too many for the same upstreams. A zone transfer holds its
// turn until its end.
func limit(next Exchanger) Exchanger {
	return &limitStage{next: next}
}

type limitStage struct{ next Exchanger }

func (s *limitStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	if err := req.scope.enter(req.key.set); err != nil {
		return nil, err
	}
	res, err := s.next.Exchange(ctx, req)
	if err != nil || res.rest == nil {
		req.scope.leave(req.key.set)
		return res, err
	}
	res.rest.onClose = func() { req.scope.leave(req.key.set) }
	return res, nil
}

const (
	// turnLots tell those apart who wait for different upstreams: it is rare that two of
	// the few that are slow share one.
	turnLots = 64
	// turnsKept is the part of the turns that those who wait for the same upstreams leave
	// to others: a server that is slow, or silent, holds up nobody else.
	turnsKept = 4
)

// turns bounds how many do something at a time, and how many of them for the same
// upstreams. The zero value lets nobody.
type turns struct {
	taken atomic.Int64
	most  int64
	lots  [turnLots]atomic.Int32
}

// take takes a turn. If there is none left it says how many are taken already, and
// by whom: all, or those of the same lot.
func (t *turns) take(lot int) *failure {
	if t.taken.Add(1) > t.most {
		t.taken.Add(-1)
		return crowded(t.most, "upstreams")
	}
	if most := t.most - t.most/turnsKept; int64(t.lots[lot].Add(1)) > most {
		t.give(lot)
		return crowded(most, "the same upstreams")
	}
	return nil
}

func (t *turns) give(lot int) {
	t.lots[lot].Add(-1)
	t.taken.Add(-1)
}

// lot is that of those who wait for a set.
func (s set) lot() int { return int(maphash.Comparable(seed, s) % turnLots) }

// enter takes the turn of a query that waits for upstreams. Whoever got it leaves.
func (sc *Scope) enter(to set) error {
	lot := to.lot()
	if f := sc.forwards.take(lot); f != nil {
		return f
	}
	if f := sc.server.forwards.take(lot); f != nil {
		sc.forwards.give(lot)
		return f
	}
	return nil
}

func (sc *Scope) leave(to set) {
	lot := to.lot()
	sc.server.forwards.give(lot)
	sc.forwards.give(lot)
}

func crowded(n int64, whom string) *failure {
	return &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeOther,
		text: fmt.Sprintf("%d queries already wait for %s", n, whom)}
}
