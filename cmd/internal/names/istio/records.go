// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/netip"
	"slices"
	"strings"
)

// records makes names with addresses of the hosts of a table, in lower case and without
// the last dot, as the sidecar's DNS proxy understands them. It takes the hosts in the
// order of their names, which a table does not have.
func records(hosts []host, domain string, shortNames bool) map[string][]netip.Addr {
	slices.SortFunc(hosts, func(a, b host) int { return strings.Compare(a.name, b.name) })
	all := make(map[string][]netip.Addr, len(hosts))
	for _, h := range hosts {
		// Without an address there is nothing to say: the nameserver may know more.
		if name := fold(h.name); name != "" && len(h.addrs) > 0 {
			all[name] = append(all[name], h.addrs...)
		}
	}
	if shortNames {
		addShort(all, hosts, domain)
	}
	addWild(all)
	for name, addrs := range all {
		if len(addrs) > 1 {
			all[name] = each(addrs)
		}
	}
	return all
}

func fold(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// addShort adds the names of Services of the mesh's own domain that do not depend on who
// asks: name.namespace and name.namespace.svc, and what else the table calls them. A host
// of that name counts more.
func addShort(all map[string][]netip.Addr, hosts []host, domain string) {
	short := make(map[string][]netip.Addr)
	for _, h := range hosts {
		if h.registry != registryKubernetes || h.short == "" || h.space == "" || !strings.HasSuffix(fold(h.name), ".svc."+fold(domain)) {
			continue
		}
		for _, name := range append([]string{h.short + "." + h.space, h.short + "." + h.space + ".svc"}, h.also...) {
			if name = fold(name); len(all[name]) == 0 && len(h.addrs) > 0 {
				short[name] = append(short[name], h.addrs...)
			}
		}
	}
	for name, addrs := range short {
		all[name] = addrs
	}
}

const wild = "*."

// addWild lets wildcards reach as far as they do in the proxy, which looks for the
// longest one that ends a name, whatever other hosts there are. In DNS a name that exists
// keeps a wildcard from all that is below it (RFC 4592 section 3.3.1), and one that
// exists only because of others below it has no answer (section 2.2.2). So such names are
// given the wildcard's addresses, and a wildcard of their own.
func addWild(all map[string][]netip.Addr) {
	wilds := make(map[string][]netip.Addr) // by what is behind the asterisk
	for name, addrs := range all {
		if base, ok := strings.CutPrefix(name, wild); ok {
			wilds[base] = addrs
		}
	}
	if len(wilds) == 0 {
		return
	}
	added := make(map[string][]netip.Addr)
	for name := range all {
		for at := strings.TrimPrefix(name, wild); at != ""; at = parent(at) {
			addrs := closest(wilds, parent(at))
			if addrs == nil {
				break // nor is there one above
			}
			if all[at] == nil {
				added[at] = addrs
			}
			if all[wild+at] == nil {
				added[wild+at] = addrs
			}
		}
	}
	for name, addrs := range added {
		all[name] = addrs
	}
}

// closest is the wildcard at a name or above it.
func closest(wilds map[string][]netip.Addr, name string) []netip.Addr {
	for ; name != ""; name = parent(name) {
		if addrs := wilds[name]; addrs != nil {
			return addrs
		}
	}
	return nil
}

func parent(name string) string {
	_, up, _ := strings.Cut(name, ".")
	return up
}

// each leaves out addresses that have been there before.
func each(addrs []netip.Addr) []netip.Addr {
	seen := make(map[netip.Addr]bool, len(addrs))
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
		before := seen[a]
		seen[a] = true
		return before
	})
}
