// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dnsteer/dnsteer/resolver"
)

const zone = "cluster.local"

// lines are names as in a zone file; "<-" marks an address that gives the name back.
func lines(all []resolver.Name) []string {
	var out []string
	for _, n := range all {
		if n.CNAME != "" {
			out = append(out, n.Name+" CNAME "+n.CNAME)
		}
		for _, a := range n.Addrs {
			line := fmt.Sprintf("%s %s", n.Name, a)
			for _, p := range n.Pointers {
				if p == a {
					line += " <-"
				}
			}
			out = append(out, line)
		}
		for _, s := range n.SRV {
			out = append(out, fmt.Sprintf("%s SRV %d %d %d %s", n.Name, s.Priority, s.Weight, s.Port, s.Target))
		}
	}
	return out
}

func serviceObject(spec corev1.ServiceSpec) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: spec}
}

func sliceObject(ports []discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-x", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		Ports:      ports, Endpoints: endpoints,
	}
}

func endpointObject(hostname string, ready bool, addrs ...string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: addrs, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	if hostname != "" {
		e.Hostname = &hostname
	}
	return e
}

func endpointPort(name string, protocol corev1.Protocol, number int32) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number}
}

// One cluster's records: the Kubernetes DNS specification 1.1, by its sections.
func TestSpecification(t *testing.T) {
	http := corev1.ServicePort{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}
	dns := corev1.ServicePort{Name: "DNS", Protocol: corev1.ProtocolUDP, Port: 53}
	noName := corev1.ServicePort{Protocol: corev1.ProtocolTCP, Port: 9}
	headless := corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}, Ports: []corev1.ServicePort{http}}
	nothing := discoveryv1.Endpoint{Addresses: []string{"192.0.2.77"}} // nobody said whether it is ready
	for _, tc := range []struct {
		name   string
		spec   corev1.ServiceSpec
		slices []*discoveryv1.EndpointSlice
		want   []string
	}{
		{"2.3.1 cluster IP", corev1.ServiceSpec{ClusterIP: "10.96.0.1"}, nil, []string{"web.ns.svc.cluster.local 10.96.0.1 <-"}},
		{"2.3.1 both families", corev1.ServiceSpec{ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1", "2001:db8::1"}}, nil, []string{
			"web.ns.svc.cluster.local 10.96.0.1 <-", "web.ns.svc.cluster.local 2001:db8::1 <-"}},
		{"2.3.2 ports with names", corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{http, dns, noName}}, nil, []string{
			"web.ns.svc.cluster.local 10.96.0.1 <-",
			"_http._tcp.web.ns.svc.cluster.local SRV 0 100 80 web.ns.svc.cluster.local",
			"_dns._udp.web.ns.svc.cluster.local SRV 0 100 53 web.ns.svc.cluster.local"}},
		{"no address yet", corev1.ServiceSpec{}, nil, nil},
		{"2.4.1 headless, no endpoints", headless, nil, nil},
		{"2.4.1 headless, none ready", headless, []*discoveryv1.EndpointSlice{sliceObject(nil, endpointObject("a", false, "192.0.2.1"))}, nil},
		{"2.4.1 headless", headless, []*discoveryv1.EndpointSlice{sliceObject(
			[]discoveryv1.EndpointPort{endpointPort("http", corev1.ProtocolTCP, 8080)},
			endpointObject("web-0", true, "192.0.2.1"), endpointObject("", true, "192.0.2.2"), endpointObject("web-2", false, "192.0.2.3"), nothing,
		)}, []string{
			"web.ns.svc.cluster.local 192.0.2.1", "web.ns.svc.cluster.local 192.0.2.2", "web.ns.svc.cluster.local 192.0.2.77",
			"web-0.web.ns.svc.cluster.local 192.0.2.1 <-",
			"192-0-2-2.web.ns.svc.cluster.local 192.0.2.2 <-",
			"192-0-2-77.web.ns.svc.cluster.local 192.0.2.77 <-",
			"_http._tcp.web.ns.svc.cluster.local SRV 0 100 8080 web-0.web.ns.svc.cluster.local",
			"_http._tcp.web.ns.svc.cluster.local SRV 0 100 8080 192-0-2-2.web.ns.svc.cluster.local",
			"_http._tcp.web.ns.svc.cluster.local SRV 0 100 8080 192-0-2-77.web.ns.svc.cluster.local"}},
		{"2.4 headless, a slice for each family", headless, []*discoveryv1.EndpointSlice{
			sliceObject([]discoveryv1.EndpointPort{endpointPort("http", "", 80)}, endpointObject("web-0", true, "192.0.2.1")),
			sliceObject([]discoveryv1.EndpointPort{endpointPort("http", "", 80)}, endpointObject("web-0", true, "2001:db8::1")),
		}, []string{
			"web.ns.svc.cluster.local 192.0.2.1", "web.ns.svc.cluster.local 2001:db8::1",
			"web-0.web.ns.svc.cluster.local 192.0.2.1 <-", "web-0.web.ns.svc.cluster.local 2001:db8::1 <-",
			"_http._tcp.web.ns.svc.cluster.local SRV 0 100 80 web-0.web.ns.svc.cluster.local"}},
		{"2.4 headless, IPv6 without a hostname", headless, []*discoveryv1.EndpointSlice{sliceObject(nil, endpointObject("", true, "2001:db8::1"))}, []string{
			"web.ns.svc.cluster.local 2001:db8::1", "2001-db8--1.web.ns.svc.cluster.local 2001:db8::1 <-"}},
		{"2.4 headless, a name for an address", headless, []*discoveryv1.EndpointSlice{sliceObject(nil, endpointObject("", true, "www.example.org"))}, nil},
		{"2.5 alias", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.org"}, nil, []string{
			"web.ns.svc.cluster.local CNAME www.example.org"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := view{service: newService(serviceObject(tc.spec)), reverse: true}
			for _, o := range tc.slices {
				v.slices = append(v.slices, newSlice(o, discoveryv1.LabelServiceName))
			}
			got := lines(names(zone, key{"ns", "web"}, []view{v}))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

// A clusterset's records: KEP-1645, "DNS".
func TestImports(t *testing.T) {
	o := new(serviceImport)
	o.Spec.Type, o.Spec.IPs, o.Spec.Ports = "ClusterSetIP", []string{"10.42.0.1", "2001:db8::1"}, []importPort{{"http", "TCP", 80}}
	k := key{"ns", "web"}
	base := "web.ns.svc.clusterset.local"
	want := []string{base + " 10.42.0.1", base + " 2001:db8::1", "_http._tcp." + base + " SRV 0 100 80 " + base}
	if diff := cmp.Diff(want, lines(names(ImportZone, k, []view{{service: newImport(o)}}))); diff != "" {
		t.Errorf("ClusterSetIP (-want +got):\n%s", diff)
	}
	o.Spec.Type = "Headless"
	ports := []discoveryv1.EndpointPort{endpointPort("http", "TCP", 8080)}
	var of []*slice
	for _, from := range []string{"east", "west"} {
		s := sliceObject(ports, endpointObject("web-0", true, map[string]string{"east": "192.0.2.1", "west": "192.0.2.2"}[from]))
		s.Labels = map[string]string{labelImport: "web", labelFrom: from}
		of = append(of, newSlice(s, labelImport))
	}
	want = []string{base + " 192.0.2.1", base + " 192.0.2.2", "web-0.east." + base + " 192.0.2.1", "web-0.west." + base + " 192.0.2.2",
		"_http._tcp." + base + " SRV 0 100 8080 web-0.east." + base, "_http._tcp." + base + " SRV 0 100 8080 web-0.west." + base}
	if diff := cmp.Diff(want, lines(names(ImportZone, k, []view{{service: newImport(o), slices: of}}))); diff != "" {
		t.Errorf("Headless (-want +got):\n%s", diff)
	}
}

// Several clusters with a Service of one name: which of them count, and what comes of
// it.
func TestMerge(t *testing.T) {
	ip := func(addr string) *service {
		return &service{addrs: parseAddrs([]string{addr}), ports: []port{{"http", "tcp", 80}}}
	}
	empty := &service{headless: true}
	alias := &service{external: "www.example.org"}
	pods := &slice{ports: []port{{"http", "tcp", 8080}}, endpoints: []endpoint{{"web-0", parseAddrs([]string{"192.0.2.1"})}}}
	here, east, west := &cluster{Cluster: Cluster{Name: "here", Local: true}}, &cluster{Cluster: Cluster{Name: "east"}}, &cluster{Cluster: Cluster{Name: "west"}}
	of := func(c *cluster, s *service, slices ...*slice) said {
		return said{view{service: s, slices: slices, reverse: c.Local}, c}
	}
	const base = "web.ns.svc.cluster.local"
	const srv = "_http._tcp." + base + " SRV 0 100 80 " + base
	for _, tc := range []struct {
		name string
		rule Merge
		all  []said
		want []string
	}{
		{"local first", LocalFirst, []said{of(here, ip("10.0.0.1")), of(east, ip("10.0.0.2"))}, []string{base + " 10.0.0.1 <-", srv}},
		{"local first, not here", LocalFirst, []said{of(east, ip("10.0.0.2")), of(west, ip("10.0.0.3"))}, []string{base + " 10.0.0.2", base + " 10.0.0.3", srv}},
		{"local first, nothing behind it here", LocalFirst, []said{of(here, empty), of(east, ip("10.0.0.2"))}, []string{base + " 10.0.0.2", srv}},
		{"local first, an alias here", LocalFirst, []said{of(here, alias), of(east, ip("10.0.0.2"))}, []string{base + " CNAME www.example.org"}},
		{"union", Union, []said{of(here, ip("10.0.0.1")), of(east, ip("10.0.0.2"))}, []string{base + " 10.0.0.1 <-", base + " 10.0.0.2", srv}},
		{"union, the same address", Union, []said{of(here, ip("10.0.0.1")), of(east, ip("10.0.0.1"))}, []string{base + " 10.0.0.1 <-", srv}},
		{"union, an alias comes later", Union, []said{of(here, ip("10.0.0.1")), of(east, alias)}, []string{base + " 10.0.0.1 <-", srv}},
		{"union, an alias comes first", Union, []said{of(here, alias), of(east, ip("10.0.0.2"))}, []string{base + " CNAME www.example.org"}},
		{"union, headless in one", Union, []said{of(here, ip("10.0.0.1")), of(east, empty, pods)}, []string{
			base + " 10.0.0.1 <-", base + " 192.0.2.1", "web-0." + base + " 192.0.2.1",
			srv, "_http._tcp." + base + " SRV 0 100 8080 web-0." + base}},
		{"union, the same pod names", Union, []said{of(here, empty, pods), of(east, empty, &slice{endpoints: []endpoint{{"web-0", parseAddrs([]string{"192.0.2.9"})}}})}, []string{
			base + " 192.0.2.1", base + " 192.0.2.9", "web-0." + base + " 192.0.2.1 <-", "web-0." + base + " 192.0.2.9",
			"_http._tcp." + base + " SRV 0 100 8080 web-0." + base}},
		{"remote only", RemoteOnly, []said{of(here, ip("10.0.0.1")), of(east, ip("10.0.0.2"))}, []string{base + " 10.0.0.2", srv}},
		{"remote only, here alone", RemoteOnly, []said{of(here, ip("10.0.0.1"))}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var views []view
			for _, s := range tc.rule.choose(tc.all) {
				views = append(views, s.view)
			}
			if diff := cmp.Diff(tc.want, lines(names(zone, key{"ns", "web"}, views))); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseMerge(t *testing.T) {
	for text, want := range map[string]Merge{"": LocalFirst, "union": Union, "remote-only": RemoteOnly} {
		if got, err := ParseMerge(text); err != nil || got != want {
			t.Errorf("%q is %q, %v", text, got, err)
		}
	}
	if _, err := ParseMerge("both"); err == nil || !strings.Contains(err.Error(), `"both", not local-first, union or remote-only`) {
		t.Errorf("error: %v", err)
	}
}

// A Service of thousands of endpoints is one answer that fits, and is quick to make.
func TestManyEndpoints(t *testing.T) {
	s := &slice{ports: []port{{"http", "tcp", 80}}}
	for i := range 5000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		s.endpoints = append(s.endpoints, endpoint{hostnameOf(a), []netip.Addr{a}})
	}
	all := names(zone, key{"ns", "web"}, []view{{service: &service{headless: true}, slices: []*slice{s}, reverse: true}})
	if len(all) != 1+5000+1 || len(all[0].Addrs) != 5000 || len(all[5001].SRV) != 5000 {
		t.Errorf("%d names", len(all))
	}
}
