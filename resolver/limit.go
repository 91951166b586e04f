// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"

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

// enter takes the turn of a query that waits for an upstream. Whoever got it leaves.
func (sc *Scope) enter() error {
	if !take(sc.forwards) {
		return crowded(cap(sc.forwards))
	}
	if !take(sc.server.forwards) {
		<-sc.forwards
		return crowded(cap(sc.server.forwards))
	}
	return nil
}

func (sc *Scope) leave() {
	<-sc.server.forwards
	<-sc.forwards
}

func take(turns chan struct{}) bool {
	select {
	case turns <- struct{}{}:
		return true
	default:
		return false
	}
}

func crowded(n int) *failure {
	return &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeOther,
		text: fmt.Sprintf("%d queries already wait for upstreams", n)}
}
