// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
)

const million = 1_000_000

// manyNames is a file of n names with an address each, of a mesh of ten clusters.
func manyNames(n int, format Format) Source {
	var b bytes.Buffer
	if format == FormatYAML {
		b.WriteString("names:\n")
	}
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if format == FormatYAML {
			fmt.Fprintf(&b, "  %s: [%s]\n", manyName(i), addr)
		} else {
			fmt.Fprintf(&b, "%s %s\n", addr, manyName(i))
		}
	}
	return Source{Path: "many", Data: b.Bytes(), Format: format}
}

func manyName(i int) string {
	return fmt.Sprintf("service-%d.namespace-%d.svc.cluster-%d.example.org", i, i/10%1000, i%10)
}

func parsed(b *testing.B, src Source) *Table {
	b.Helper()
	t, err := ParseTable(src)
	if err != nil {
		b.Fatal(err)
	}
	return t
}

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// reportCPU reports the CPU time of an operation, which a busy machine leaves alone where
// the time on the clock it does not, from when it is called to when what it returns is.
func reportCPU(b *testing.B) func() {
	heap() // what was made before is not to be collected meanwhile
	before := cpuOf(b, os.Getpid())
	return func() {
		b.ReportMetric(float64((cpuOf(b, os.Getpid())-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
	}
}

// What a million names take: the time to read them, and the memory beside their own
// octets, what their addresses give back included.
func BenchmarkTableLoad(b *testing.B) {
	for name, format := range map[string]Format{"hosts": FormatHosts, "yaml": FormatYAML} {
		src := manyNames(million, format)
		octets := 0
		for i := range million {
			octets += len(manyName(i)) + 2
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				before, cpu := heap(), cpuOf(b, os.Getpid())
				b.StartTimer()
				t := parsed(b, src)
				b.StopTimer()
				b.ReportMetric((cpuOf(b, os.Getpid()) - cpu).Seconds(), "cpu-s")
				b.ReportMetric(float64(heap()-before-uint64(octets))/million, "B/name-beyond")
				b.ReportMetric(float64(octets)/million, "B/name-itself")
				runtime.KeepAlive(t)
				b.StartTimer()
			}
		})
	}
}

// A look-up, for names of the table and for others, by the size of the table.
func BenchmarkTableLookUp(b *testing.B) {
	for _, size := range []int{1000, million} {
		table := parsed(b, manyNames(size, FormatHosts))
		var there, missing [1 << 12][]byte
		for i := range there {
			there[i] = []byte(fromRR(manyName(i * 7919 % size)))
			missing[i] = []byte(fromRR("no" + manyName(i*7919%size)))
		}
		b.Run(fmt.Sprintf("there/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			defer reportCPU(b)()
			for i := 0; b.Loop(); i++ {
				if !table.findWire(there[i%len(there)]).ok() {
					b.Fatal("not found")
				}
			}
		})
		b.Run(fmt.Sprintf("missing/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			defer reportCPU(b)()
			for i := 0; b.Loop(); i++ {
				if table.findWire(missing[i%len(missing)]).ok() {
					b.Fatal("found")
				}
			}
		})
	}
}

// One change of a layer beside a million names, with a server that follows and has a
// thousand answers ready.
func BenchmarkTableChange(b *testing.B) {
	all, l, s := followed(b)
	origin := l.Origin(func() string { return "bench" })
	b.ReportAllocs()
	defer reportCPU(b)()
	for i := 0; b.Loop(); i++ {
		addrs := []netip.Addr{netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)})}
		err := l.Apply(slices.Values([]Name{{Name: fmt.Sprintf("changing-%d.example.org", i%100), TTL: 5, From: origin, Addrs: addrs, Pointers: addrs}}))
		if err != nil {
			b.Fatal(err)
		}
	}
	runtime.KeepAlive(all)
	runtime.KeepAlive(s)
}

// followed is a server with a million names from files, an empty layer before them,
// and a thousand answers ready.
func followed(b *testing.B) (*Names, *Layer, *Server) {
	all := NewNames()
	l := all.AddLayer("changing")
	if _, err := all.AddLayer("files").SetFiles(manyNames(million, FormatHosts)); err != nil {
		b.Fatal(err)
	}
	s, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	all.Follow(s)
	for i := range 1000 {
		askWire(b, s, pack(b, query(manyName(i), 1)), false)
	}
	return all, l, s
}

// The longest that a query waits while a table of a million names is replaced by
// another one, again and again, to the longest while nothing happens.
func BenchmarkTableSwap(b *testing.B) {
	s, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	tables := []*Table{parsed(b, manyNames(million, FormatHosts)), parsed(b, manyNames(million, FormatHosts))}
	s.SetTable(tables[0])
	wire := pack(b, query(manyName(5), 1))
	path := s.own.newWirePath()
	var quiet, swapping []time.Duration
	look := func() time.Duration {
		start := time.Now()
		if path.answer(nil, wire, loopback, false) == nil {
			askWire(b, s, wire, false)
		}
		return time.Since(start)
	}
	for b.Loop() {
		for range 1000 {
			quiet = append(quiet, look())
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 20 {
				s.SetTable(tables[i%2])
			}
		}()
		for range 1000 {
			swapping = append(swapping, look())
		}
		<-done
	}
	for name, times := range map[string][]time.Duration{"quiet": quiet, "swapping": swapping} {
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)*999/1000].Nanoseconds())/1000, "p99.9-µs-"+name)
	}
}
