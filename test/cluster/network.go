// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const uplink = "eth0" // of a node

// network is what the nodes of one cluster share. Its number is in all names and
// addresses, so that several clusters can run at once.
type network byte

// lastNetwork is the newest; each is used once.
var lastNetwork atomic.Uint32

// maxNetworks is how many the range of pods' addresses is divided for.
const maxNetworks = 25

// bridge is in the lab; nodes are its ports.
func (w network) bridge() string { return fmt.Sprintf("lab%d", w) }

// addr is the lab's own, and the nodes' way out, which leads nowhere further.
func (w network) addr() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(w), 1}), 24)
}

// node is the address of a node.
func (w network) node(number int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 200, byte(w), byte(10 + number)})
}

// pods is where the pods of a node have their addresses.
func (w network) pods(node int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 88, byte(w)*10 + byte(node), 0}), 24)
}

// newNetwork makes the bridge of a network.
func newNetwork(tb testing.TB) network {
	tb.Helper()
	number := lastNetwork.Add(1) - 1
	if number >= maxNetworks {
		tb.Fatalf("make network: %d is the most that one run has", maxNetworks)
	}
	w := network(number)
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: w.bridge()}}
	if err := netlink.LinkAdd(link); err != nil {
		tb.Fatalf("make bridge: %v", err)
	}
	tb.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil {
			tb.Errorf("remove bridge: %v", err)
		}
	})
	lo, err := netlink.LinkByName("lo")
	if err := errors.Join(err, netlink.AddrReplace(link, address(w.addr())), netlink.LinkSetUp(link)); err != nil {
		tb.Fatalf("set up bridge: %v", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		tb.Fatalf("set up lo: %v", err)
	}
	return w
}

// connect joins the node to the bridge.
func (n *Node) connect(number int) {
	n.tb.Helper()
	lab, err := netlink.LinkByName(n.network.bridge())
	if err != nil {
		n.tb.Fatalf("find bridge: %v", err)
	}
	port := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: fmt.Sprintf("port%d.%d", n.network, number), MasterIndex: lab.Attrs().Index},
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
			inside.AddrAdd(eth, address(netip.PrefixFrom(n.Addr, n.network.addr().Bits()))),
			inside.LinkSetUp(eth),
			inside.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: n.Gateway.AsSlice()}),
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
