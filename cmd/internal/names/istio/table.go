// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxHosts bounds what a table makes us keep. The largest meshes have some ten thousand.
const maxHosts = 1 << 20

// registryKubernetes is the registry of hosts that are Services.
const registryKubernetes = "Kubernetes"

// host is one line of a table: a name, or a wildcard, and its addresses.
type host struct {
	name  string
	addrs []netip.Addr
	// registry says who knows the host: Kubernetes, or External for a ServiceEntry.
	registry string
	// short and space are name and namespace of a Service; of an endpoint of a headless
	// one short is its hostname, a dot, and the Service's name.
	short, space string
	also         []string // more names
}

// parseTable reads a name table. What it refuses, it refuses whole.
func parseTable(b []byte) ([]host, error) {
	var hosts []host
	err := fields(b, func(number protowire.Number, value []byte) error {
		if number != 1 {
			return nil
		}
		if len(hosts) == maxHosts {
			return fmt.Errorf("the table has more than %d hosts", maxHosts)
		}
		h, err := parseHost(value)
		hosts = append(hosts, h)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read name table: %w", err)
	}
	return hosts, nil
}

// parseHost reads an entry of a map: the name and what is said of it.
func parseHost(b []byte) (h host, err error) {
	err = fields(b, func(number protowire.Number, value []byte) (err error) {
		switch number {
		case 1:
			h.name, err = text(value)
		case 2:
			err = fields(value, h.field)
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("host %q: %w", h.name, err)
	}
	return h, err
}

func (h *host) field(number protowire.Number, value []byte) error {
	s, err := text(value)
	if err != nil {
		return err
	}
	switch number {
	case 1:
		// A network, or nonsense, is no address that a record could have: the proxy
		// passes it by.
		addr, err := netip.ParseAddr(s)
		addr = addr.Unmap().WithZone("")
		if err == nil && !addr.IsUnspecified() {
			h.addrs = append(h.addrs, addr)
		}
	case 2:
		h.registry = s
	case 3:
		h.short = s
	case 4:
		h.space = s
	case 5:
		h.also = append(h.also, s)
	}
	return nil
}
