// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/dnsteer/dnsteer/bpf"
)

// layoutVersion returns LAYOUT of the embedded programs.
func layoutVersion() (uint32, error) {
	spec, err := bpf.LoadSteer()
	if err != nil {
		return 0, fmt.Errorf("read embedded programs: %w", err)
	}
	var version uint32
	if err := spec.Variables[bpf.SteerVarSteerVersion].Get(&version); err != nil {
		return 0, fmt.Errorf("read layout version: %w", err)
	}
	return version, nil
}

// configure fills the maps that only the loader writes.
func (d *Datapath) configure() error {
	version, err := layoutVersion()
	if err != nil {
		return err
	}
	about := bpf.SteerAbout{Layout: version, Port: uint32(d.opts.port())}
	if err := d.maps[bpf.SteerMapSteerAbout].Put(uint32(0), about); err != nil {
		return fmt.Errorf("write about: %w", err)
	}
	for key, rule := range d.opts.rules() {
		if err := d.maps[bpf.SteerMapSteerNameserv].Put(key, rule); err != nil {
			return fmt.Errorf("write rule for nameserver %s: %w", prefixOf(key), err)
		}
	}
	return nil
}

// rules are Only and Except as the programs know them.
type rules map[bpf.SteerNameserverKey]bpf.SteerNameserverRule

// everywhere is the key of all nameservers.
var everywhere = keyOf(netip.PrefixFrom(netip.IPv6Unspecified(), 0))

// rules returns what the programs are to go by. Of a prefix that is in both lists, Except
// counts.
func (o Options) rules() rules {
	r := make(rules)
	if len(o.Only) > 0 {
		r[everywhere] = bpf.SteerNameserverRuleNAMESERVER_LEAVE // but for what follows
	}
	for _, p := range o.Only {
		r[keyOf(p)] = bpf.SteerNameserverRuleNAMESERVER_STEER
	}
	for _, p := range o.Except {
		r[keyOf(p)] = bpf.SteerNameserverRuleNAMESERVER_LEAVE
	}
	return r
}

// lists is the inverse of Options.rules, in the order of the addresses.
func (r rules) lists() (only, except []netip.Prefix) {
	for key, rule := range r {
		switch {
		case rule == bpf.SteerNameserverRuleNAMESERVER_STEER:
			only = append(only, prefixOf(key))
		case key != everywhere:
			except = append(except, prefixOf(key))
		}
	}
	if r[everywhere] == bpf.SteerNameserverRuleNAMESERVER_LEAVE && len(only) == 0 {
		except = append(except, prefixOf(everywhere))
	}
	slices.SortFunc(only, netip.Prefix.Compare)
	slices.SortFunc(except, netip.Prefix.Compare)
	return only, except
}

// keyOf holds IPv4 as ::ffff:a.b.c.d.
func keyOf(p netip.Prefix) bpf.SteerNameserverKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += v4Mapped
	}
	return bpf.SteerNameserverKey{PrefixLen: uint32(bits), Address: toAddress(p.Masked().Addr())}
}

// prefixOf is the inverse of keyOf.
func prefixOf(key bpf.SteerNameserverKey) netip.Prefix {
	a, bits := fromAddress(key.Address), int(key.PrefixLen)
	switch {
	case !a.IsValid(): // all zero, which means none elsewhere
		a = netip.IPv6Unspecified()
	case a.Is4():
		bits -= v4Mapped
	}
	return netip.PrefixFrom(a, bits)
}

// v4Mapped is how many bits ::ffff:0:0 has, below which IPv4 is.
const v4Mapped = 96

// readRules takes over Only and Except from what was loaded.
func (d *Datapath) readRules() error {
	r := make(rules)
	var key bpf.SteerNameserverKey
	var rule bpf.SteerNameserverRule
	all := d.maps[bpf.SteerMapSteerNameserv].Iterate()
	for all.Next(&key, &rule) {
		r[key] = rule
	}
	if err := all.Err(); err != nil {
		return unlessDenied("read rules for nameservers", err)
	}
	d.opts.Only, d.opts.Except = r.lists()
	return nil
}

// checkAbout compares what was loaded with what this version understands, and takes
// over its port. The error wraps ErrLayout.
func (d *Datapath) checkAbout() error {
	version, err := layoutVersion()
	if err != nil {
		return err
	}
	about, err := d.about()
	if err != nil {
		return err
	}
	if about.Layout != version {
		return fmt.Errorf("%w: loaded %d, this version %d", ErrLayout, about.Layout, version)
	}
	d.opts.Port = uint16(about.Port)
	return nil
}

// about reads what a loaded datapath says of itself.
func (d *Datapath) about() (bpf.SteerAbout, error) {
	var about bpf.SteerAbout
	m := d.maps[bpf.SteerMapSteerAbout]
	if m == nil {
		return about, fmt.Errorf("read about: %w", ErrLayout)
	}
	if err := m.Lookup(uint32(0), &about); err != nil {
		return about, fmt.Errorf("read about: %w: %w", ErrLayout, err)
	}
	return about, nil
}
