// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"slices"

	"github.com/dnsteer/dnsteer/resolver"
)

// authorities are the zones of which the layer has all names now: those that a cluster
// that is served claims, and that no cluster has that is not served. Callers hold mu.
func (s *Source) authorities() []string {
	var zones []string
	for _, at := range s.slots {
		if !at.isUp() {
			continue
		}
		for _, zone := range at.current.Authority {
			if !slices.Contains(zones, zone) && s.hasAll(zone) {
				zones = append(zones, zone)
			}
		}
	}
	slices.Sort(zones)
	return zones
}

// hasAll reports whether all clusters of a zone are served.
func (s *Source) hasAll(zone string) bool {
	return !slices.ContainsFunc(s.slots, func(at *slot) bool {
		if at.isUp() {
			return false
		}
		return slices.ContainsFunc([]*cluster{at.current, at.next}, func(c *cluster) bool { return c != nil && slices.Contains(c.Zones, zone) })
	})
}

// isUp reports whether the cluster is served.
func (at *slot) isUp() bool { return at.current != nil && !at.current.expired }

// setAuthorities makes the layer the authority of these zones and no others. Callers hold mu.
func (s *Source) setAuthorities(zones []string) error {
	if slices.Equal(zones, s.authority) {
		return nil
	}
	s.authority = zones
	all := make([]resolver.Authority, 0, len(zones))
	for _, zone := range zones {
		all = append(all, resolver.Authority{Suffix: zone, TTL: s.TTL, From: s.origin(s.chosen(zone, key{}))})
	}
	return s.layer.SetAuthority(all...)
}

// giveUpAuthorities takes back those that are none any more, before their names go.
// Callers hold mu.
func (s *Source) giveUpAuthorities() error {
	now := s.authorities()
	left := slices.DeleteFunc(slices.Clone(s.authority), func(zone string) bool { return !slices.Contains(now, zone) })
	return s.setAuthorities(left)
}
