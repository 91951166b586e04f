// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkTimeout bounds the wait for a veth pair to come up: a work queue of the
// kernel reports the carrier, at most once a second when it is busy.
const linkTimeout = 10 * time.Second

// device is the name of both ends of a link.
const device = "eth0"

// clientAddrs and serverAddrs are the two ends of a link. The first address of
// each family of the server is the client's default gateway.
var (
	clientAddrs = []string{"192.0.2.1/24", "2001:db8::1/64"}
	serverAddrs = []string{
		"192.0.2.53/24", "192.0.2.54/24", "192.0.2.7/24",
		"2001:db8::53/64", "2001:db8::54/64",
	}
	gateways = []string{"192.0.2.53", "2001:db8::53"}
)

// NewLink makes two namespaces joined by a veth pair, with the addresses of the
// package comment, and returns when all of them are usable.
func NewLink(tb testing.TB) (client, server *NetNS) {
	tb.Helper()
	client, server = NewNetNS(tb), NewNetNS(tb)
	near, far := client.netlink(), server.netlink()
	defer near.Close()
	defer far.Close()

	pair := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: device},
		PeerName:      device,
		PeerNamespace: netlink.NsFd(server.file.Fd()),
	}
	if err := near.LinkAdd(pair); err != nil {
		tb.Fatalf("make veth pair: %v", err)
	}
	// Both ends first: an IPv6 address that is added without a carrier waits for it.
	for _, handle := range []*netlink.Handle{near, far} {
		if err := setUp(handle); err != nil {
			tb.Fatal(err)
		}
	}
	for _, handle := range []*netlink.Handle{near, far} {
		Eventually(tb, linkTimeout, func() error { return linkUp(handle) })
	}
	addAddrs(tb, near, clientAddrs)
	addAddrs(tb, far, serverAddrs)
	addDefaultRoutes(tb, near)
	for _, handle := range []*netlink.Handle{near, far} {
		Eventually(tb, linkTimeout, func() error { return addrsUsable(handle) })
	}
	return client, server
}

func setUp(handle *netlink.Handle) error {
	link, err := handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	if err := handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", device, err)
	}
	return nil
}

func linkUp(handle *netlink.Handle) error {
	link, err := handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	if state := link.Attrs().OperState; state != netlink.OperUp {
		return fmt.Errorf("%s is %s, not up", device, state)
	}
	return nil
}

func addAddrs(tb testing.TB, handle *netlink.Handle, cidrs []string) {
	tb.Helper()
	link, err := handle.LinkByName(device)
	if err != nil {
		tb.Fatalf("find %s: %v", device, err)
	}
	for _, cidr := range cidrs {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			tb.Fatalf("parse %s: %v", cidr, err)
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := handle.AddrAdd(link, addr); err != nil {
			tb.Fatalf("add address %s: %v", cidr, err)
		}
	}
}

func addDefaultRoutes(tb testing.TB, handle *netlink.Handle) {
	tb.Helper()
	link, err := handle.LinkByName(device)
	if err != nil {
		tb.Fatalf("find %s: %v", device, err)
	}
	for _, gateway := range gateways {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)}
		if err := handle.RouteAdd(route); err != nil {
			tb.Fatalf("add default route via %s: %v", gateway, err)
		}
	}
}

// addrsUsable fails while an address, the link-local one included, may not yet
// be a source address.
func addrsUsable(handle *netlink.Handle) error {
	link, err := handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	addrs, err := handle.AddrList(link, netlink.FAMILY_V6)
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", device, err)
	}
	for _, addr := range addrs {
		if addr.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			return fmt.Errorf("address %s is not usable yet", addr.IPNet)
		}
	}
	return nil
}
