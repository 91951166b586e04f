// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"

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
	if len(d.opts.Only) > 0 {
		// Leave everything, but for what follows.
		if err := d.putRule(netip.PrefixFrom(netip.IPv6Unspecified(), 0), bpf.SteerNameserverRuleNAMESERVER_LEAVE); err != nil {
			return err
		}
	}
	for _, p := range d.opts.Only {
		if err := d.putRule(p, bpf.SteerNameserverRuleNAMESERVER_STEER); err != nil {
			return err
		}
	}
	for _, p := range d.opts.Except {
		if err := d.putRule(p, bpf.SteerNameserverRuleNAMESERVER_LEAVE); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) putRule(p netip.Prefix, rule bpf.SteerNameserverRule) error {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96 // held as ::ffff:a.b.c.d
	}
	key := bpf.SteerNameserverKey{PrefixLen: uint32(bits), Address: toAddress(p.Masked().Addr())}
	if err := d.maps[bpf.SteerMapSteerNameserv].Put(key, rule); err != nil {
		return fmt.Errorf("write rule for nameserver %s: %w", p, err)
	}
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
