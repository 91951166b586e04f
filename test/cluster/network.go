// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const (
	bridge = "lab0" // in the lab; nodes are its ports
	uplink = "eth0" // of a node
)

// labAddr is the lab's own, and the nodes' way out, which leads nowhere further.
var labAddr = netip.MustParsePrefix("10.200.0.1/24")

// newNetwork makes the bridge of the lab. One cluster at a time has it.
func newNetwork(tb testing.TB) {
	tb.Helper()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
	if err := netlink.LinkAdd(link); err != nil {
		tb.Fatalf("make bridge: %v", err)
	}
	tb.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil {
			tb.Errorf("remove bridge: %v", err)
		}
	})
	lo, err := netlink.LinkByName("lo")
	if err := errors.Join(err, netlink.AddrReplace(link, address(labAddr)), netlink.LinkSetUp(link)); err != nil {
		tb.Fatalf("set up bridge: %v", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		tb.Fatalf("set up lo: %v", err)
	}
}

// connect joins the node to the bridge.
func (n *Node) connect(number int) {
	n.tb.Helper()
	lab, err := netlink.LinkByName(bridge)
	if err != nil {
		n.tb.Fatalf("find bridge: %v", err)
	}
	port := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: fmt.Sprintf("port%d", number), MasterIndex: lab.Attrs().Index},
		PeerName:      uplink,
		PeerNamespace: netlink.NsPid(n.pid),
	}
	if err := errors.Join(netlink.LinkAdd(port), netlink.LinkSetUp(port)); err != nil {
		n.tb.Fatalf("connect node %s: %v", n.Name, err)
	}
	n.withNetlink(func(inside *netlink.Handle) error {
		lo, errLo := inside.LinkByName("lo")
		eth, errEth := inside.LinkByName(uplink)
		if err := errors.Join(errLo, errEth); err != nil {
			return err
		}
		return errors.Join(
			inside.LinkSetUp(lo),
			inside.AddrAdd(eth, address(netip.PrefixFrom(n.Addr, labAddr.Bits()))),
			inside.LinkSetUp(eth),
			inside.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: labAddr.Addr().AsSlice()}),
		)
	})
}

// route tells n how to reach the pods of another node, and the lab those of both.
func (n *Node) route(other *Node) {
	n.tb.Helper()
	n.withNetlink(func(inside *netlink.Handle) error {
		return inside.RouteAdd(&netlink.Route{Dst: ipNet(other.Pods), Gw: other.Addr.AsSlice()})
	})
}

// withNetlink calls f with a handle of the node's network.
func (n *Node) withNetlink(f func(inside *netlink.Handle) error) {
	n.tb.Helper()
	ns, err := netns.GetFromPid(n.pid)
	if err != nil {
		n.tb.Fatalf("find network of %s: %v", n.Name, err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		n.tb.Fatalf("open netlink on %s: %v", n.Name, err)
	}
	defer inside.Close()
	if err := f(inside); err != nil {
		n.tb.Fatalf("set up network of %s: %v", n.Name, err)
	}
}

func address(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
