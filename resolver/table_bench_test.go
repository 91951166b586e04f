// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/resolver/internal/mmsg"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const million = 1_000_000

// manyNames is a file of n names with an address each, of a mesh of ten clusters.
func manyNames(n int, format Format) Source {
	var b bytes.Buffer
	if format == FormatYAML {
		b.WriteString("names:\n")
	}
	for i := range n {
		addr := testenv.MeshAddr(i)
		if format == FormatYAML {
			fmt.Fprintf(&b, "  %s: [%s]\n", testenv.MeshName(i), addr)
		} else {
			fmt.Fprintf(&b, "%s %s\n", addr, testenv.MeshName(i))
		}
	}
	return Source{Path: "many", Data: b.Bytes(), Format: format}
}

func parsed(b *testing.B, src Source) *Table {
	b.Helper()
	t, err := ParseTable(src)
	if err != nil {
		b.Fatal(err)
	}
	return t
}

// reportCPU reports the CPU time of an operation, which a busy machine leaves alone where
// the time on the clock it does not, from when it is called to when what it returns is.
func reportCPU(b *testing.B) func() {
	testenv.Heap() // what was made before is not to be collected meanwhile
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
			octets += len(testenv.MeshName(i)) + 2
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				before, cpu := testenv.Heap(), cpuOf(b, os.Getpid())
				b.StartTimer()
				t := parsed(b, src)
				b.StopTimer()
				b.ReportMetric((cpuOf(b, os.Getpid()) - cpu).Seconds(), "cpu-s")
				b.ReportMetric(float64(testenv.Heap()-before-uint64(octets))/million, "B/name-beyond")
				b.ReportMetric(float64(octets)/million, "B/name-itself")
				runtime.KeepAlive(t)
				b.StartTimer()
			}
		})
	}
}

// What it takes to give a layer a file of a million names: the first time, after a line has
// changed, and after one was put before all others.
func BenchmarkSetFiles(b *testing.B) {
	src := manyNames(million, FormatHosts)
	with := func(line, insteadOf string) Source {
		return Source{src.Path, bytes.Replace(src.Data, []byte(insteadOf), []byte(line), 1), src.Format}
	}
	set := func(l *Layer, src Source) {
		if _, err := l.SetFiles(src); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("first", func(b *testing.B) {
		defer reportCPU(b)()
		for b.Loop() {
			set(NewNames().AddLayer("files"), src)
		}
	})
	for name, edited := range map[string]Source{
		"changed": with("192.0.2.1 "+testenv.MeshName(million/2), "10.7.161.32 "+testenv.MeshName(million/2)),
		"added":   with("192.0.2.1 new.example.org\n10.0.0.0 ", "10.0.0.0 "),
	} {
		for _, others := range []int{0, 1000} {
			b.Run(fmt.Sprintf("%s/beside-%d", name, others), func(b *testing.B) {
				all, before, l := besides(b, others)
				set(l, src)
				defer reportCPU(b)()
				for i := 0; b.Loop(); i++ {
					set(l, [2]Source{edited, src}[i%2])
				}
				runtime.KeepAlive(all)
				runtime.KeepAlive(before)
			})
		}
	}
}

// besides is an empty layer behind one that has so many names, of two addresses.
func besides(b *testing.B, n int) (all *Names, before, l *Layer) {
	all = NewNames()
	before, l = all.AddLayer("before"), all.AddLayer("files")
	from := before.Origin(func() string { return "bench" })
	var names []Name
	for i := range n {
		addrs := []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 2)})}
		names = append(names, Name{Name: fmt.Sprintf("other-%d.example.org", i), From: from, Addrs: addrs, Pointers: addrs})
	}
	if err := before.Apply(slices.Values(names)); err != nil {
		b.Fatal(err)
	}
	return all, before, l
}

// What the table answers, and that it does not, from wire to wire, by its size and how many
// queries were read together: for names that are asked for evenly, which no cache of the
// processor holds.
func BenchmarkTableAnswer(b *testing.B) {
	for _, size := range []int{1000, million} {
		s, err := New(Config{})
		if err != nil {
			b.Fatal(err)
		}
		s.SetTable(parsed(b, manyNames(size, FormatHosts)))
		for kind, prefix := range map[string]string{"there": "", "missing": "no"} {
			var wires [1 << 16][]byte
			for i := range wires {
				wires[i] = pack(b, query(prefix+testenv.MeshName(i*7919%size), dns.TypeA))
			}
			for _, batch := range []int{1, 4, mmsg.Size} {
				b.Run(fmt.Sprintf("%s/%d/%d", kind, size, batch), func(b *testing.B) {
					path := s.own.newWirePath()
					buf := make([]byte, 0, maxWire)
					b.ReportAllocs()
					defer reportCPU(b)()
					for i := 0; b.Loop(); i++ {
						at := i % len(wires)
						if at%batch == 0 {
							path.warm(batch, func(i int) []byte { return wires[at+i] })
						}
						if got := path.answer(buf, wires[at], loopback, false); (got != nil) != (prefix == "") {
							b.Fatal("answered, or not")
						}
					}
				})
			}
		}
	}
}

// One change of a layer beside a million names, with a server that follows.
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

// followed is a server with a million names from files, and an empty layer before them.
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
	return all, l, s
}

// How long queries take while nothing happens, while tables of a million names replace
// each other a thousand times a second, and while one is read from a file.
func BenchmarkTableSwap(b *testing.B) {
	s, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	src := manyNames(million, FormatHosts)
	tables := [2]*Table{parsed(b, src), parsed(b, src)}
	s.SetTable(tables[0])
	phases := []struct {
		name string
		do   func(done <-chan struct{})
	}{
		{"quiet", func(<-chan struct{}) {}},
		{"swapping", func(done <-chan struct{}) {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				case <-tick.C:
					s.SetTable(tables[i%2])
				}
			}
		}},
		{"loading", func(done <-chan struct{}) {
			for {
				select {
				case <-done:
					return
				default:
					s.SetTable(parsed(b, src))
				}
			}
		}},
	}
	times := make(map[string][]time.Duration)
	for b.Loop() {
		for _, phase := range phases {
			done := make(chan struct{})
			var doing sync.WaitGroup
			doing.Go(func() { phase.do(done) })
			times[phase.name] = append(times[phase.name], asking(b, s, 3*time.Second)...)
			close(done)
			doing.Wait()
		}
	}
	for name, all := range times {
		slices.Sort(all)
		for _, at := range []struct {
			label string
			part  int
		}{{"p50", 500}, {"p99", 990}, {"p99.9", 999}} {
			b.ReportMetric(float64(all[len(all)*at.part/1000].Nanoseconds())/1000, at.label+"-µs-"+name)
		}
	}
}

// asking asks for names of the table for some time, and returns how long each took.
func asking(b *testing.B, s *Server, long time.Duration) (times []time.Duration) {
	path := s.own.newWirePath()
	var wires [64][]byte
	for i := range wires {
		wires[i] = pack(b, query(testenv.MeshName(i), 1))
	}
	end := time.Now().Add(long)
	for i := 0; ; i++ {
		wire := wires[i%len(wires)]
		start := time.Now()
		if path.answer(nil, wire, loopback, false) == nil {
			b.Fatal("not answered")
		}
		now := time.Now()
		times = append(times, now.Sub(start))
		if now.After(end) {
			return times
		}
	}
}
