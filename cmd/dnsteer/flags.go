// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/dnsteer/dnsteer/resolver"
)

// add declares the flags that exec and run have in common.
func (s *settings) add(fs *flag.FlagSet) {
	file := func(format resolver.Format) func(string) error {
		return func(path string) error {
			s.names = append(s.names, nameFile{path, format})
			return nil
		}
	}
	fs.Func("hosts", "`file` of names in hosts format (repeatable)", file(resolver.FormatHosts))
	fs.Func("names", "`file` of names in YAML (repeatable; for a name in several files the first one counts)", file(resolver.FormatYAML))
	fs.Func("upstream", "forward to this `server`, not to the nameserver that was asked (repeatable: the one that answers fast comes first): 192.0.2.53, 192.0.2.53:5353, tls://192.0.2.53#dns.example.org, https://192.0.2.53/dns-query#dns.example.org", s.addUpstream)
	fs.Func("route", "forward names at and below a suffix to servers of their own, `suffix=server,...` (repeatable; the longest suffix counts): cluster2.example.org=192.0.2.5,192.0.2.6", s.addRoute)
	fs.BoolVar(&s.forwardSpecial, "forward-special", false, "forward localhost, invalid, onion and the reverse names of loopback addresses too, instead of answering them (RFC 6761)")
	fs.BoolVar(&s.randomCase, "random-case", false, "spell names in a random case when asking nameservers by UDP, and want it back: harder to forge")
	fs.Func("only", "steer only queries to this nameserver `address` or prefix (repeatable)", prefixes(&s.only))
	fs.Func("except", "leave queries to this nameserver `address` or prefix alone (repeatable)", prefixes(&s.except))
	fs.BoolVar(&s.failClosed, "fail-closed", false, "refuse queries (EPERM) while the resolver is dead or hung, instead of letting them through")
	fs.DurationVar(&s.hungAfter, "hung-after", hungAfter, "start a resolver again that has not answered for so `long`; 0 is never, to look at it with a debugger")
	fs.BoolVar(&s.untagged, "no-tags", false, "receive on 127.0.0.1 and ::1 alone; the resolver then takes every query as one to the first nameserver")
}

// check refuses what cannot be meant; command is whose flags they are.
func (s *settings) check(command string) error {
	if s.hungAfter < 0 {
		return usageError{fmt.Sprintf("%s: --hung-after=%v: want a time, or 0", command, s.hungAfter), command}
	}
	return nil
}

// addUpstream adds to the servers for all names that no route is for.
func (s *settings) addUpstream(v string) error {
	u, err := resolver.ParseUpstream(v)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(s.routes, isForAll); i >= 0 {
		s.routes[i].Upstreams = append(s.routes[i].Upstreams, u)
		return nil
	}
	s.routes = append(s.routes, resolver.Route{Suffix: ".", Upstreams: []resolver.Upstream{u}})
	return nil
}

func isForAll(r resolver.Route) bool { return r.Suffix == "." }

func (s *settings) addRoute(v string) error {
	r, err := resolver.ParseRoute(v)
	if err != nil {
		return err
	}
	same := func(other resolver.Route) bool {
		return strings.EqualFold(strings.TrimSuffix(r.Suffix, "."), strings.TrimSuffix(other.Suffix, "."))
	}
	if slices.ContainsFunc(s.routes, same) {
		return fmt.Errorf("%s has servers already: write them in one --route, with commas between", r.Suffix)
	}
	s.routes = append(s.routes, r)
	return nil
}

func prefixes(list *[]netip.Prefix) func(string) error {
	return func(v string) error {
		for part := range strings.SplitSeq(v, ",") {
			p, err := parsePrefix(part)
			if err != nil {
				return err
			}
			*list = append(*list, p)
		}
		return nil
	}
}

func parsePrefix(v string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(v); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	if p, err := netip.ParsePrefix(v); err == nil {
		return p, nil
	}
	return netip.Prefix{}, fmt.Errorf("want an address or prefix such as 192.0.2.53 or 2001:db8::/32")
}
