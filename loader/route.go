// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tagRoute makes the tags of IPv6 local addresses of the loopback interface (AnyIP).
func tagRoute(port uint16) *netlink.Route {
	prefix := tagPrefix6(port)
	return &netlink.Route{
		Type:      unix.RTN_LOCAL,
		Table:     unix.RT_TABLE_LOCAL,
		LinkIndex: loIndex,
		Dst:       &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 128)},
	}
}

func addTagRoute(port uint16) error {
	err := netlink.RouteAdd(tagRoute(port))
	if errors.Is(err, unix.EEXIST) { // left by one that was killed
		return nil
	}
	return err
}

// RemoveTagRoute removes what Listen added to the routes of the calling thread's
// namespace. Call it when the scope is gone for good, not between two resolvers.
func RemoveTagRoute(port uint16) error {
	err := netlink.RouteDel(tagRoute(port))
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("remove route to IPv6 tags: %w", err)
	}
	return nil
}
