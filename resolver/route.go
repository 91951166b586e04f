// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/miekg/dns"
)

// route notes whom a request is for, and its key, for the stages behind it.
func route(next Exchanger) Exchanger { return &routeStage{next: next} }

type routeStage struct{ next Exchanger }

func (s *routeStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	st := req.scope.settings.Load()
	to, ok := req.scope.setFor(st, req.Local)
	if !ok {
		return nil, &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeNoReachableAuthority,
			text: fmt.Sprintf("no upstream for queries at %s", req.Local)}
	}
	ups, err := req.scope.upstreamsFor(st, to)
	if err != nil {
		return nil, err
	}
	routed := *req
	routed.upstreams = ups
	routed.key, routed.keyed = newKey(to, req)
	return s.next.Exchange(ctx, &routed)
}

// upstreamsFor are the servers of a set. One of our own sockets is none.
func (sc *Scope) upstreamsFor(st *settings, to set) ([]netip.AddrPort, error) {
	ups := st.upstreams
	if len(ups) == 0 {
		ups = []netip.AddrPort{to.server}
	}
	if err := sc.checkLoop(ups); err != nil {
		return nil, &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeOther, text: err.Error()}
	}
	return ups, nil
}
