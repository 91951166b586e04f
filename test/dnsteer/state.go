// SPDX-License-Identifier: Apache-2.0

package dnsteer

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// Calls returns how many socket calls left the datapath with each verdict.
func (s *Service) Calls() map[loader.Verdict]uint64 {
	s.tb.Helper()
	d, err := loader.Open(loader.Options{Cgroup: s.Place.Cgroup.Path, BPFFS: s.BPFFS})
	if err != nil {
		s.tb.Fatalf("open datapath: %v", err)
	}
	defer d.Close()
	counts, err := d.Counts()
	if err != nil {
		s.tb.Fatalf("count verdicts: %v", err)
	}
	calls := make(map[loader.Verdict]uint64)
	for _, c := range counts {
		calls[c.Verdict] += c.Calls
	}
	return calls
}

// AssertGone fails the test if dnsteer left anything in the place: a program on a
// hook, a route, a cgroup, a pin on bpffs unless that is empty.
func AssertGone(tb testing.TB, p Place, bpffs string) {
	tb.Helper()
	if n := Attached(tb, p.Cgroup); n != 0 {
		tb.Errorf("%d programs are still attached to %s", n, p.Cgroup.Path)
	}
	if n := Watching(tb, p.Cgroup); n != 0 {
		tb.Errorf("%d programs still look for leaks in %s", n, p.Cgroup.Path)
	}
	for _, route := range tagRoutes(tb, p.NetNS) {
		tb.Errorf("route to tags is still there: %v", route)
	}
	cgroups, err := filepath.Glob(filepath.Join(p.Cgroup.Path, "dnsteer-*"))
	if err != nil || len(cgroups) > 0 {
		tb.Errorf("cgroups are still there: %v, %v", cgroups, err)
	}
	if bpffs == "" {
		return
	}
	if _, err := os.Stat(filepath.Join(bpffs, "dnsteer")); !errors.Is(err, os.ErrNotExist) {
		tb.Errorf("%s/dnsteer is still there: %v", bpffs, err)
	}
}

// Attached counts the programs on the hooks of a cgroup.
func Attached(tb testing.TB, cgroup *testenv.Cgroup) int {
	tb.Helper()
	return programs(tb, cgroup,
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
		ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername)
}

// Watching counts the programs that look for leaks in a cgroup.
func Watching(tb testing.TB, cgroup *testenv.Cgroup) int {
	tb.Helper()
	return programs(tb, cgroup, ebpf.AttachCGroupInetEgress)
}

func programs(tb testing.TB, cgroup *testenv.Cgroup, hooks ...ebpf.AttachType) int {
	tb.Helper()
	var n int
	for _, hook := range hooks {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.File().Fd()), Attach: hook})
		if err != nil {
			tb.Fatalf("query %v: %v", hook, err)
		}
		n += len(found.Programs)
	}
	return n
}

// tagRoutes lists local routes to tags of IPv6: the prefix fd64:6e73:7465::/48.
func tagRoutes(tb testing.TB, ns *testenv.NetNS) []netlink.Route {
	tb.Helper()
	prefix := &net.IPNet{IP: net.ParseIP("fd64:6e73:7465::"), Mask: net.CIDRMask(48, 128)}
	var routes []netlink.Route
	var err error
	ns.Do(func() {
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_V6,
			&netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		tb.Fatalf("list routes: %v", err)
	}
	var tags []netlink.Route
	for _, route := range routes {
		if route.Dst != nil && prefix.Contains(route.Dst.IP) {
			tags = append(tags, route)
		}
	}
	return tags
}
