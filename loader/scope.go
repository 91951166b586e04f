// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net"
	"net/netip"

	"github.com/dnsteer/dnsteer/bpf"
)

// Scope says how the datapath treats one network namespace.
type Scope struct {
	// OwnerUID and OwnerGID own the sockets that are never steered, as numbers of the
	// initial user namespace. An id of 1<<32 - 1 is nobody's.
	OwnerUID, OwnerGID uint32
	// PrimaryIPv4 and PrimaryIPv6 are the nameservers that 127.0.0.1 and ::1 stand for.
	// Without one, every nameserver of that family gets a tag.
	PrimaryIPv4, PrimaryIPv6 netip.Addr
	// FailClosed refuses with EPERM what would otherwise go to the nameserver because
	// the listener is dead or hung.
	FailClosed bool
	// Untagged gives up tags: all queries arrive at the loopback address, and a socket
	// that asks two nameservers sees both reply as the one it asked last.
	Untagged bool
	// Node says on whose behalf EnrolNamespace is called: of one process that serves all
	// namespaces, whose successor is to know what it has left, see NodeNamespaces.
	Node bool
}

func (s Scope) settings(flags bpf.SteerScopeFlag) bpf.SteerScope {
	v := bpf.SteerScope{Flags: flags, OwnerUid: s.OwnerUID, OwnerGid: s.OwnerGID}
	v.Primary[familyIPv4] = toAddress(s.PrimaryIPv4)
	v.Primary[familyIPv6] = toAddress(s.PrimaryIPv6)
	if s.FailClosed {
		v.Flags |= bpf.SteerScopeFlagSCOPE_CLOSED
	}
	if s.Untagged {
		v.Flags |= bpf.SteerScopeFlagSCOPE_UNTAGGED
	}
	if s.Node {
		v.Flags |= bpf.SteerScopeFlagSCOPE_NODE
	}
	return v
}

// elsewhere returns an address that only the default route leads to: one of those
// reserved for documentation (RFC 5737, RFC 3849).
func elsewhere(family int) netip.Addr {
	if family == familyIPv4 {
		return netip.AddrFrom4([4]byte{203, 0, 113, 1})
	}
	return netip.MustParseAddr("2001:db8:ffff::1")
}

// sourceFor returns the local address of a socket connected to the nameserver, which
// is invalid without a route. Connecting a UDP socket sends nothing; port 9 (discard)
// is not steered.
func sourceFor(nameserver netip.Addr) netip.Addr {
	if !nameserver.IsValid() {
		return netip.Addr{}
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(nameserver, 9)))
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}
