// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/miekg/dns"
)

// router says whom a query is for.
type router struct {
	upstreams []netip.AddrPort
	origin    func(netip.Addr) (netip.Addr, bool)
	own       func(netip.AddrPort) bool // addresses at which we listen ourselves
}

// stage notes the route and the key of every request for the stages behind it.
func (r *router) stage(next Exchanger) Exchanger { return &routeStage{router: r, next: next} }

type routeStage struct {
	*router
	next Exchanger
}

func (s *routeStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	ups, err := s.route(req)
	if err != nil {
		return nil, err
	}
	routed := *req
	routed.upstreams = ups
	set, _ := s.set(req.Local)
	routed.key, routed.keyed = newKey(set, req)
	return s.next.Exchange(ctx, &routed)
}

// set is the short name of the upstreams for queries at a local address: the
// nameserver that was meant, or the zero value where Config.Upstreams are asked
// whatever was meant. It is false where there are none.
func (r *router) set(local netip.Addr) (netip.AddrPort, bool) {
	if len(r.upstreams) > 0 {
		return netip.AddrPort{}, true
	}
	meant, ok := originOf(r.origin, local)
	return netip.AddrPortFrom(meant, 53), ok
}

// route says whom to ask.
func (r *router) route(req *Request) ([]netip.AddrPort, error) {
	ups := r.upstreams
	if len(ups) == 0 {
		meant, ok := r.set(req.Local)
		if !ok {
			return nil, &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeNoReachableAuthority,
				text: fmt.Sprintf("no upstream for queries at %s", req.Local)}
		}
		ups = []netip.AddrPort{meant}
	}
	for _, up := range ups {
		if r.own(up) {
			return nil, &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeOther,
				text: fmt.Sprintf("upstream %s is this resolver itself", up)}
		}
	}
	return ups, nil
}
