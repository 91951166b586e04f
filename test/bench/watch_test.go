// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"testing"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// BenchmarkWatch measures a datagram to another port while somebody watches for leaks, and
// while nobody does. It leaves by a device, to a socket that drops it.
func BenchmarkWatch(b *testing.B) {
	watched, other := testenv.NewCgroup(b), testenv.NewCgroup(b)
	ns, server := testenv.NewLink(b)
	addNameserver(b, server)
	for _, cgroup := range []*testenv.Cgroup{watched, other} {
		datapath, err := loader.Load(loader.Options{Cgroup: cgroup.Path})
		if err != nil {
			b.Fatal(err)
		}
		defer datapath.Close()
		if cgroup == other {
			continue
		}
		watch, err := datapath.WatchLeaks()
		if err != nil {
			b.Fatal(err)
		}
		defer watch.Close()
	}
	on, off := newSide(b, ns, watched, nameserver), newSide(b, ns, other, nameserver)
	b.Run("call="+string(sendOther), func(b *testing.B) {
		inTurns(b, sendOther, 500, off, on)
		b.StopTimer()
		b.ReportMetric(median(off.wall), "without-ns/call")
		b.ReportMetric(median(on.wall), "with-ns/call")
		b.ReportMetric(median(on.wall)-median(off.wall), "added-ns/call")
	})
}
