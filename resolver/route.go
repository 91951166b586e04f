// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// routes are the servers of names. They never change.
type routes struct {
	suffixes map[wireName]*target
	all      *target // of "."; nil if there is none
}

// target is a list of servers that answer for each other.
type target struct {
	upstreams []Upstream
	set       set
}

// newRoutes makes routes of settings, or says all that is wrong with them.
func (sc *Scope) newRoutes(given Settings) (*routes, error) {
	list, all := given.Routes, given.Upstreams
	if list == nil {
		list = sc.server.cfg.Routes
	}
	if all == nil {
		all = sc.server.cfg.Upstreams
	}
	made := &routes{suffixes: make(map[wireName]*target)}
	var errs []error
	for _, r := range list {
		errs = append(errs, sc.addRoute(made, r))
	}
	if len(all) > 0 {
		root := Route{Suffix: "."}
		for _, up := range all {
			root.Upstreams = append(root.Upstreams, plain(up))
		}
		errs = append(errs, sc.addRoute(made, root))
	}
	return made, errors.Join(errs...)
}

func (sc *Scope) addRoute(made *routes, r Route) error {
	name, err := r.name()
	switch {
	case err != nil:
		return err
	case len(r.Upstreams) == 0:
		return fmt.Errorf("route %q: no servers", r.Suffix)
	case made.suffixes[name] != nil || name == rootName && made.all != nil:
		return fmt.Errorf("route %q: servers are given twice", r.Suffix)
	}
	to := set{group: sc.server.groups.number(fmt.Sprint(r.Upstreams))}
	for _, up := range r.Upstreams {
		if err := cmp.Or(up.check(), sc.checkOwn(up)); err != nil {
			return err
		}
		if sc.private || isNear(up.addr.Addr()) {
			to.scope = sc.number
		}
	}
	t := &target{upstreams: slices.Clone(r.Upstreams), set: to}
	if name == rootName {
		made.all = t
	} else {
		made.suffixes[name] = t
	}
	return nil
}

// find returns the target of the longest suffix, nil if there is none.
func (r *routes) find(name []byte) *target {
	if len(r.suffixes) == 0 {
		return r.all
	}
	for ; name[0] > 0; name = name[1+int(name[0]):] {
		if t := r.suffixes[wireName(name)]; t != nil {
			return t
		}
	}
	return r.all
}

// targets are all that there are.
func (r *routes) targets() []*target {
	list := slices.Collect(maps.Values(r.suffixes))
	if r.all != nil {
		list = append(list, r.all)
	}
	return list
}

// setFor is the set for a name, in lower case, asked at a local address; false where
// there is nobody to ask.
func (sc *Scope) setFor(st *settings, name []byte, local netip.Addr) (set, bool) {
	if t := st.routes.find(name); t != nil {
		return t.set, true
	}
	meant, ok := originOf(sc.origin, local)
	if !ok {
		return set{}, false
	}
	to := set{server: netip.AddrPortFrom(meant, 53)}
	if sc.private || isNear(meant) {
		to.scope = sc.number
	}
	return to, true
}

// upstreamsFor are the servers to ask. One of our own sockets is none.
func (sc *Scope) upstreamsFor(req *Request) ([]Upstream, error) {
	st := sc.settings.Load()
	if t := st.routes.find([]byte(req.msg.name)); t != nil {
		for _, up := range t.upstreams {
			if err := sc.checkOwn(up); err != nil {
				return nil, loops(err)
			}
		}
		return t.upstreams, nil
	}
	to, ok := sc.setFor(st, []byte(req.msg.name), req.Local)
	if !ok {
		return nil, &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeNoReachableAuthority,
			text: fmt.Sprintf("no upstream for queries at %s", req.Local)}
	}
	if err := sc.checkOwn(plain(to.server)); err != nil {
		return nil, loops(err)
	}
	return []Upstream{plain(to.server)}, nil
}

func loops(err error) *failure {
	return &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeOther, text: err.Error()}
}

// checkOwn refuses an upstream among the listeners.
func (sc *Scope) checkOwn(up Upstream) error {
	if sc.isOwn(up.addr) {
		return fmt.Errorf("upstream %s is this resolver itself", up)
	}
	return nil
}

// checkLoop refuses upstreams among the listeners.
func (sc *Scope) checkLoop() error {
	for _, t := range sc.settings.Load().routes.targets() {
		for _, up := range t.upstreams {
			if err := sc.checkOwn(up); err != nil {
				return err
			}
		}
	}
	return nil
}

// route notes whom a request is for, and its key, for the stages behind it.
func route(next Exchanger) Exchanger { return &routeStage{next: next} }

type routeStage struct{ next Exchanger }

func (s *routeStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	ups, err := req.scope.upstreamsFor(req)
	if err != nil {
		return nil, err
	}
	routed := *req
	routed.upstreams = ups
	to, _ := req.scope.setFor(req.scope.settings.Load(), []byte(req.msg.name), req.Local)
	routed.key, routed.keyed = newKey(to, req)
	routed.key.set = to // also of what has no key: it waits for somebody too
	return s.next.Exchange(ctx, &routed)
}
