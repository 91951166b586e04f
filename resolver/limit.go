// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"

	"github.com/miekg/dns"
)

// limit refuses at once what would be more queries waiting for upstreams than a scope,
// or all of them, may have. A zone transfer holds its turn until its end.
func (s *Server) limit(next Exchanger) Exchanger {
	return &limitStage{turns: make(chan struct{}, s.cfg.MaxForwards), next: next}
}

type limitStage struct {
	turns chan struct{}
	next  Exchanger
}

func (s *limitStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	if !take(req.scope.forwards) {
		return nil, crowded(cap(req.scope.forwards))
	}
	if !take(s.turns) {
		<-req.scope.forwards
		return nil, crowded(cap(s.turns))
	}
	release := func() {
		<-s.turns
		<-req.scope.forwards
	}
	res, err := s.next.Exchange(ctx, req)
	if err != nil || res.rest == nil {
		release()
		return res, err
	}
	res.rest.onClose = release
	return res, nil
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
