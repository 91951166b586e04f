// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/miekg/dns"
)

// limit refuses at once what would be more queries waiting for upstreams than a scope,
// or all of them, may have. A zone transfer holds its turn until its end.
func limit(next Exchanger) Exchanger {
	return &limitStage{next: next}
}

type limitStage struct{ next Exchanger }

func (s *limitStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	if err := req.scope.enter(); err != nil {
		return nil, err
	}
	res, err := s.next.Exchange(ctx, req)
	if err != nil || res.rest == nil {
		req.scope.leave()
		return res, err
	}
	res.rest.onClose = req.scope.leave
	return res, nil
}

// turns bounds how many do something at a time. The zero value lets nobody.
type turns struct {
	taken atomic.Int64
	most  int64
}

// take takes a turn, false if there is none left.
func (t *turns) take() bool {
	if t.taken.Add(1) <= t.most {
		return true
	}
	t.give()
	return false
}

func (t *turns) give() { t.taken.Add(-1) }

// enter takes the turn of a query that waits for an upstream. Whoever got it leaves.
func (sc *Scope) enter() error {
	if !sc.forwards.take() {
		return crowded(sc.forwards.most)
	}
	if !sc.server.forwards.take() {
		sc.forwards.give()
		return crowded(sc.server.forwards.most)
	}
	return nil
}

func (sc *Scope) leave() {
	sc.server.forwards.give()
	sc.forwards.give()
}

func crowded(n int64) *failure {
	return &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeOther,
		text: fmt.Sprintf("%d queries already wait for upstreams", n)}
}
