// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"

	"github.com/miekg/dns"
)

// limit refuses at once what would be more than n queries waiting for upstreams. A
// zone transfer holds its turn until its end.
func limit(n int) Middleware {
	turns := make(chan struct{}, n)
	return func(next Exchanger) Exchanger {
		return &limitStage{turns: turns, next: next}
	}
}

type limitStage struct {
	turns chan struct{}
	next  Exchanger
}

func (s *limitStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	select {
	case s.turns <- struct{}{}:
	default:
		return nil, &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeOther,
			text: fmt.Sprintf("%d queries already wait for upstreams", cap(s.turns))}
	}
	release := func() { <-s.turns }
	res, err := s.next.Exchange(ctx, req)
	if err != nil || res.rest == nil {
		release()
		return res, err
	}
	res.rest.onClose = release
	return res, nil
}
