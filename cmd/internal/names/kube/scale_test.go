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
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	manyServices  = 50_000
	endpointsEach = 10
)

// A cluster of 50,000 Services with 500,000 endpoints: what it takes for each Service,
// all indexes and the table included. Endpoints of headless ones have names.
func BenchmarkMemory(b *testing.B) {
	b.Run("none headless", func(b *testing.B) { memory(b, manyServices+1) })
	b.Run("a tenth headless", func(b *testing.B) { memory(b, 10) })
	b.Run("a fifth headless", func(b *testing.B) { memory(b, 5) })
}

// memory fills a source with Services of which each so-manieth is headless.
func memory(b *testing.B, headlessEvery int) {
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
		empty := testenv.Heap()
		b.StartTimer()
		for i, objects := range [][]any{services(headlessEvery), endpointSlices(headlessEvery), nil} {
			if err := kinds[i].Replace(objects, ""); err != nil {
				b.Fatal(err)
			}
		}
		s.flush()
		b.StopTimer()
		names, _ := s.layer.Count()
		b.ReportMetric(float64(names)/manyServices, "names/service")
		b.ReportMetric(float64(testenv.Heap()-empty)/manyServices, "B/service")
		runtime.KeepAlive(kinds)
		runtime.KeepAlive(all)
		b.StartTimer()
	}
}

func services(headlessEvery int) (all []any) {
	for i := range manyServices {
		o := &corev1.Service{ObjectMeta: meta(i), Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
		if (i+1)%headlessEvery != 0 {
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
func endpointSlices(headlessEvery int) (all []any) {
	port, name := int32(80), "http"
	for i := headlessEvery - 1; i < manyServices; i += headlessEvery {
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
