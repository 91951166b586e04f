// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dnsteer/dnsteer/resolver"
)

const (
	manyServices = 50_000
	// endpointsEach is how many endpoints a Service has; every fifth is headless, so that
	// its endpoints have names.
	endpointsEach = 10
	headlessEvery = 5
)

// A cluster of 50,000 Services with 500,000 endpoints: what it takes for each Service,
// all indexes and the table included, and the CPU time to serve it all when it is listed.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		all := resolver.NewNames()
		s := NewSource(all.AddLayer("kubernetes"), Config{})
		c := s.newCluster(Cluster{Name: "east", Zones: []string{"east.example.org"}, Reverse: true})
		s.slots = []*slot{{name: c.Name, next: c, served: make(chan struct{})}}
		var kinds []*store
		for _, w := range c.kinds() {
			kinds = append(kinds, &store{watched: w, to: c})
		}
		c.unsynced = len(kinds)
		empty := heap()
		b.StartTimer()
		for i, objects := range [][]any{services(), endpointSlices(), nil} {
			if err := kinds[i].Replace(objects, ""); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		state := heap()
		b.StartTimer()
		s.flush()
		b.StopTimer()
		names, _ := s.layer.Count()
		b.ReportMetric(float64(names)/manyServices, "names/service")
		b.ReportMetric(float64(state-empty)/manyServices, "B/service-state")
		b.ReportMetric(float64(heap()-empty)/manyServices, "B/service")
		runtime.KeepAlive(kinds)
		runtime.KeepAlive(all)
		b.StartTimer()
	}
}

func services() (all []any) {
	for i := range manyServices {
		o := &corev1.Service{ObjectMeta: meta(i), Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
		if i%headlessEvery != 0 {
			o.Spec.ClusterIP = netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String()
			o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
		}
		all = append(all, o)
	}
	return all
}

func meta(i int) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: fmt.Sprint("namespace-", i%100), Name: fmt.Sprint("service-", i)}
}

// endpointSlices are those of the headless ones; no others are asked for.
func endpointSlices() (all []any) {
	port, name := int32(80), "http"
	for i := 0; i < manyServices; i += headlessEvery {
		m := meta(i)
		o := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name + "-abcde",
			Labels: map[string]string{discoveryv1.LabelServiceName: m.Name}}, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}}}
		for e := range endpointsEach {
			addr := netip.AddrFrom4([4]byte{10, byte(128 + i>>12), byte(i >> 4), byte(i<<4 | e)}).String()
			o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr}})
		}
		all = append(all, o)
	}
	return all
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
