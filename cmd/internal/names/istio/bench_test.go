// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/resolver"
	"github.com/dnsteer/dnsteer/test/istiod"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// BenchmarkTable is a mesh of 10,000 Services, one of which changes each time: what the
// agent does for the table that istiod then sends.
func BenchmarkTable(b *testing.B) {
	const services = 10_000
	hosts := make(map[string]istiod.Info, services)
	for n := range services {
		addr := netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n)}).String()
		hosts[fmt.Sprintf("service-%d.namespace-%d.svc.cluster.local", n, n%100)] = istiod.Kubernetes(fmt.Sprint("service-", n), fmt.Sprint("namespace-", n%100), addr)
	}
	var tables [2][]byte
	for n := range tables {
		hosts["service-0.namespace-0.svc.cluster.local"] = istiod.Kubernetes("service-0", "namespace-0", fmt.Sprint("192.0.2.", n+1))
		tables[n] = istiod.Table(b, hosts)
	}
	clear(hosts)
	before := testenv.Heap()
	names := resolver.NewNames()
	s := NewSource(names.AddLayer("istio"), Config{})
	taken := 0
	take := func() {
		all, err := parseTable(tables[taken%2])
		if err != nil {
			b.Fatal(err)
		}
		taken++
		s.take(all)
	}
	take()
	kept := testenv.Heap() - before
	began := cpu(b)
	for b.Loop() {
		take()
	}
	b.ReportMetric(float64(cpu(b)-began)/float64(b.N)/1e6, "cpu-ms/op")
	b.ReportMetric(float64(kept)/services, "B/service")
	if n := names.Table().Names(); n != services {
		b.Errorf("%d names", n)
	}
	runtime.KeepAlive(tables)
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
