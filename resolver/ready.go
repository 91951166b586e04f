// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"slices"
)

// readyBytes holds some thousand answers of the table ready for the wire path. The
// others are built for each query.
const readyBytes = 2 << 20

// ready keeps what the table answers, as wire, until the search list changes or what
// the table has for a name that the answer rests on.
// Answers that came from further on, or in part, are the cache's.
func (s *Server) ready(next Exchanger) Exchanger { return &readyStage{Server: s, next: next} }

type readyStage struct {
	*Server
	next Exchanger
}

func (s *readyStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	epoch := s.answers.epoch.Load()
	res, err := s.next.Exchange(ctx, req)
	if err != nil || res.looked == nil {
		return res, err
	}
	if k, ok := newKey(req.scope.settings.Load().answers, req); ok {
		s.answers.put(k, req.client(), epoch, &kept{wire: res.msg.wire, question: res.msg.question, tcp: true, looked: res.looked, rotation: rotationOf(res.msg), saved: res.saved}, nil)
	}
	return res, nil
}

// isRight reports whether all that an answer rests on is the same in a table.
func (k *kept) isRight(t *Table) bool {
	return !slices.ContainsFunc(k.looked, func(l look) bool { return !t.find(l.name).says(l.hit) })
}
