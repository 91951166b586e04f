// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
)

// readyBytes holds some thousand answers of the table ready for the wire path. The
// others are built for each query.
const readyBytes = 2 << 20

// ready keeps what the table answers, as wire, until table or search list change.
// Answers that came from further on, or in part, are the cache's.
func (s *Server) ready(next Exchanger) Exchanger { return &readyStage{Server: s, next: next} }

type readyStage struct {
	*Server
	next Exchanger
}

func (s *readyStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	epoch := s.answers.epoch.Load()
	res, err := s.next.Exchange(ctx, req)
	if err != nil || !res.ours {
		return res, err
	}
	if k, ok := newKey(req.scope.settings.Load().answers, req); ok {
		s.answers.put(k, req.client(), epoch, &kept{wire: res.msg.wire, question: res.msg.question, tcp: true}, nil)
	}
	return res, nil
}
