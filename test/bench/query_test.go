// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"testing"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/seed"
)

// BenchmarkQuery measures whole queries, each way beside the direct one.
func BenchmarkQuery(b *testing.B) {
	const batch = 200
	binary := dnsteer.Build(b)
	direct := newWay(b, nil)
	for _, interceptor := range []seed.Interceptor{
		seed.Netfilter(), seed.Zones(), seed.DnsteerMesh(binary), seed.Dnsteer(binary),
	} {
		way := newWay(b, interceptor)
		b.Run("way="+interceptor.Name(), func(b *testing.B) {
			inTurns(b, queryDNS, batch, direct, way)
			b.StopTimer()
			b.ReportMetric(median(way.wall), "wall-ns/query")
			b.ReportMetric(median(way.cpu), "cpu-ns/query")
			b.ReportMetric(median(way.wall)/median(direct.wall), "wall/direct")
			b.ReportMetric(median(way.cpu)/median(direct.cpu), "cpu/direct")
		})
	}
}

// newWay makes a pod whose client's queries the interceptor brings to the resolver;
// without one, the client asks the resolver itself.
func newWay(b *testing.B, interceptor seed.Interceptor) *side {
	b.Helper()
	w := seed.NewWorld(b)
	if interceptor == nil {
		w.StartProxy(b)
		return newSide(b, w.Client, w.Cgroup, w.Proxy)
	}
	if !interceptor.OwnResolver() {
		w.StartProxy(b)
	}
	interceptor.Install(b, w)
	return newSide(b, w.Client, w.Cgroup, w.Nameserver)
}
