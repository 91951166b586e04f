// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/dnsteer/dnsteer/resolver"
)

// specVersion is that of the Kubernetes DNS specification, which every zone tells
// (section 2.1).
const specVersion = "1.1.0"

// view is what one cluster has for a Service. Who made it is with the slices.
type view struct {
	*service
	slices []*slice
	// reverse lets its addresses give names back.
	reverse bool
}

// has reports whether there is anything that an address record could say.
func (v view) has() bool {
	if !v.headless {
		return v.external != "" || len(v.addrs) > 0
	}
	return slices.ContainsFunc(v.slices, func(s *slice) bool { return len(s.endpoints) > 0 })
}

// SRV records say nothing of preference: all are alike.
const (
	srvPriority = 0
	srvWeight   = 100
)

// names are the records of one Service in one zone, in a form that does not depend on
// anything but the views: the Service itself, its endpoints' hostnames, its ports. Of
// several views the first alias wins, else all addresses are together.
func names(zone string, k key, views []view) []resolver.Name {
	b := &builder{at: make(map[string]int), srvs: make(map[srvRecord]bool)}
	b.base.Name = fmt.Sprintf("%s.%s.svc.%s", k.name, k.namespace, zone)
	for _, v := range views {
		if v.external != "" {
			if len(b.base.Addrs) == 0 {
				b.base.CNAME = v.external
				return []resolver.Name{b.base}
			}
			continue
		}
		if v.headless {
			b.headless(v)
		} else {
			b.clusterIP(v)
		}
	}
	if len(b.base.Addrs) == 0 {
		return nil // no name without an endpoint (section 2.4.1)
	}
	all := append(append([]resolver.Name{b.base}, b.hosts...), b.ports...)
	for i := range all {
		all[i].Addrs = each(all[i].Addrs)
	}
	return all
}

// each leaves out addresses that have been there before.
func each(addrs []netip.Addr) []netip.Addr {
	seen := make(map[netip.Addr]bool, len(addrs))
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool {
		before := seen[a]
		seen[a] = true
		return before
	})
}

// builder collects the records of one Service.
type builder struct {
	base  resolver.Name
	hosts []resolver.Name // of headless ones, in the order of their endpoints
	ports []resolver.Name
	at    map[string]int // of a name in hosts or in ports
	srvs  map[srvRecord]bool
}

// srvRecord is an SRV record with its owner.
type srvRecord struct {
	owner string
	resolver.SRV
}

// clusterIP is section 2.3.
func (b *builder) clusterIP(v view) {
	addAddrs(&b.base, v.addrs, v.reverse)
	for _, p := range v.ports {
		b.srv(p, b.base.Name)
	}
}

// headless is section 2.4.
func (b *builder) headless(v view) {
	for _, s := range v.slices {
		for _, e := range s.endpoints {
			addAddrs(&b.base, e.addrs, false)
			name := e.hostname + "."
			if s.from != "" {
				name += s.from + "."
			}
			name += b.base.Name
			addAddrs(b.of(&b.hosts, name), e.addrs, v.reverse)
			for _, p := range s.ports {
				b.srv(p, name)
			}
		}
	}
}

func (b *builder) srv(p port, target string) {
	n := b.of(&b.ports, fmt.Sprintf("_%s._%s.%s", p.name, p.protocol, b.base.Name))
	r := resolver.SRV{Priority: srvPriority, Weight: srvWeight, Port: p.number, Target: target}
	// An endpoint comes once for each family, and in each cluster perhaps.
	if !b.srvs[srvRecord{n.Name, r}] {
		b.srvs[srvRecord{n.Name, r}] = true
		n.SRV = append(n.SRV, r)
	}
}

// of finds a name in a list, or adds it.
func (b *builder) of(list *[]resolver.Name, name string) *resolver.Name {
	i, ok := b.at[name]
	if !ok {
		i = len(*list)
		b.at[name] = i
		*list = append(*list, resolver.Name{Name: name})
	}
	return &(*list)[i]
}

func addAddrs(n *resolver.Name, addrs []netip.Addr, reverse bool) {
	n.Addrs = append(n.Addrs, addrs...)
	if reverse {
		n.Pointers = append(n.Pointers, addrs...)
	}
}
