// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"net/netip"
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
	fs.Func("upstream", "forward to this `address`, not to the nameserver that was asked (repeatable: tried in order)", func(v string) error {
		a, err := parseUpstream(v)
		s.upstreams = append(s.upstreams, a)
		return err
	})
	fs.Func("only", "steer only queries to this nameserver `address` or prefix (repeatable)", prefixes(&s.only))
	fs.Func("except", "leave queries to this nameserver `address` or prefix alone (repeatable)", prefixes(&s.except))
	fs.BoolVar(&s.failClosed, "fail-closed", false, "refuse queries (EPERM) while the resolver is dead or hung, instead of letting them through")
	fs.BoolVar(&s.untagged, "no-tags", false, "receive on 127.0.0.1 and ::1 alone; the resolver then takes every query as one to the first nameserver")
}

// parseUpstream reads an address with or without a port.
func parseUpstream(v string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(v); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	if a, err := netip.ParseAddrPort(v); err == nil {
		return a, nil
	}
	return netip.AddrPort{}, fmt.Errorf("want an address such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53")
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
