// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// endpointsEach is how many endpoints a Service has; every fifth is headless, so that
	// they have names.
	endpointsEach = 10
	headlessEvery = 5
	freshChanges  = 300
	// followed changes come at so many in a second.
	followed, changeRate = 1000, 100
)

// BenchmarkNames has many Services (SERVICES, 5000 by default), each with ten endpoints,
// and tells what they cost: the time until all are served, memory, the time from the end
// of a write to the first right answer, and the CPU time of a change at 100 of them in a
// second, without what writing it takes.
func BenchmarkNames(b *testing.B) {
	n := number(b, "SERVICES", 5000)
	p := newPlane(b)
	start := time.Now()
	p.store(b, many(n))
	stored := time.Since(start)
	for b.Loop() {
		b.ReportMetric(stored.Seconds(), "s-to-store")
		written := cpuOfChanges(b, p)
		before := testenv.Heap()
		w := newBench(b, kube.Config{})
		start, cpu := time.Now(), cpuTime(b)
		w.set(b, kube.Cluster{Name: "east", Zones: []string{"east.example.org"}, Reverse: true, Rest: p.config})
		<-w.source.Served("east")
		b.ReportMetric(time.Since(start).Seconds(), "s-to-serve")
		b.ReportMetric((cpuTime(b) - cpu).Seconds(), "cpu-s-to-serve")
		names, _ := w.layer.Count()
		b.ReportMetric(float64(names), "names")
		b.ReportMetric(float64(testenv.Heap()-before)/float64(n), "B/service")
		b.ReportMetric((cpuOfChanges(b, p)-written).Seconds()*1000/followed, "cpu-ms/change")
		late := changesOf(b, p, w)
		b.ReportMetric(float64(late[len(late)/2].Microseconds())/1000, "ms-p50")
		b.ReportMetric(float64(late[len(late)*99/100].Microseconds())/1000, "ms-p99")
	}
}

// cpuOfChanges is what this process needs while Services change: to write, and to follow
// if anybody does.
func cpuOfChanges(b *testing.B, p *plane) time.Duration {
	b.Helper()
	tick := time.NewTicker(time.Second / changeRate)
	defer tick.Stop()
	before := cpuTime(b)
	for i := range followed {
		<-tick.C
		p.endpoints(b, fmt.Sprint("service-", i%100*headlessEvery), netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i%250)}).String())
	}
	return cpuTime(b) - before
}

// changesOf changes one Service again and again, and returns how long each change took
// to be seen, sorted.
func changesOf(b *testing.B, p *plane, w *bench) []time.Duration {
	b.Helper()
	const name = "service-0"
	var late []time.Duration
	for i := range freshChanges {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i%250)}).String()
		p.endpoints(b, name, addr)
		written := time.Now()
		for {
			got, _ := w.answer(b, name+".default.svc.east.example.org", "A")
			if slices.Equal(got, []string{addr}) {
				break
			}
			if time.Since(written) > patience {
				b.Fatalf("%s is %q, not %s", name, got, addr)
			}
		}
		late = append(late, time.Since(written))
	}
	slices.Sort(late)
	return late
}

// cpuTime is what this process has used so far, in user and in system mode.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
