// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// record is what is said of a name.
type record struct {
	addrs []netip.Addr
	// shared is set for hosts of ServiceEntries: most are somebody's on the Internet, who
	// has more to say of them than addresses.
	shared bool
}

func (r record) isSame(other record) bool {
	return r.shared == other.shared && slices.Equal(r.addrs, other.addrs)
}

// records makes names of the hosts of a table, in lower case and without the last dot, as
// the sidecar's DNS proxy understands them. It takes the hosts in the order of their
// names, which a table does not have.
func records(hosts []host, domain string, shortNames bool) map[string]record {
	slices.SortFunc(hosts, func(a, b host) int { return strings.Compare(a.name, b.name) })
	all := make(map[string]record, len(hosts))
	for _, h := range hosts {
		// Without an address there is nothing to say: the nameserver may know more.
		if name := fold(h.name); name != "" && len(h.addrs) > 0 {
			r, isThere := all[name]
			isShared := h.registry != registryKubernetes && (r.shared || !isThere)
			all[name] = record{append(r.addrs, h.addrs...), isShared}
		}
	}
	if shortNames {
		addShort(all, hosts, domain)
	}
	addWild(all)
	for name, r := range all {
		if len(r.addrs) > 1 {
			all[name] = record{each(r.addrs), r.shared}
		}
	}
	return all
}

func fold(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// addShort adds the names of Services of the mesh's own domain that do not depend on who
// asks: name.namespace and name.namespace.svc, and what else the table calls them. A host
// of that name counts more.
func addShort(all map[string]record, hosts []host, domain string) {
	short := make(map[string]record)
	for _, h := range hosts {
		if h.registry != registryKubernetes || h.short == "" || h.space == "" || !strings.HasSuffix(fold(h.name), ".svc."+fold(domain)) {
			continue
		}
		for _, name := range append([]string{h.short + "." + h.space, h.short + "." + h.space + ".svc"}, h.also...) {
			if name = fold(name); len(all[name].addrs) == 0 && len(h.addrs) > 0 {
				short[name] = record{addrs: append(short[name].addrs, h.addrs...)}
			}
		}
	}
	maps.Copy(all, short)
}

const wild = "*."

// addWild lets wildcards reach as far as they do in the proxy, which looks for the
// longest one that ends a name, whatever other hosts there are. In DNS a name that exists
// keeps a wildcard from all that is below it (RFC 4592 section 3.3.1), and one that
// exists only because of others below it has no answer (section 2.2.2). So such names are
// given the wildcard's addresses, and a wildcard of their own.
func addWild(all map[string]record) {
	wilds := make(map[string]record) // by what is behind the asterisk
	for name, r := range all {
		if base, ok := strings.CutPrefix(name, wild); ok {
			wilds[base] = r
		}
	}
	if len(wilds) == 0 {
		return
	}
	added := make(map[string]record)
	for name := range all {
		for at := strings.TrimPrefix(name, wild); at != ""; at = parent(at) {
			r, ok := closest(wilds, parent(at))
			if !ok {
				break // nor is there one above
			}
			for _, name := range []string{at, wild + at} {
				if _, ok := all[name]; !ok {
					added[name] = r
				}
			}
		}
	}
	maps.Copy(all, added)
}

// closest is the wildcard at a name or above it.
func closest(wilds map[string]record, name string) (record, bool) {
	for ; name != ""; name = parent(name) {
		if r, ok := wilds[name]; ok {
			return r, true
		}
	}
	return record{}, false
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
