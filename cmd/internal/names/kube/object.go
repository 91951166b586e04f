// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// key is a Service: its namespace and name.
type key struct{ namespace, name string }

// service is what DNS needs of a Service.
type service struct {
	headless bool
	addrs    []netip.Addr // its cluster IPs, of both families
	external string       // where it is an alias of, instead
	ports    []port       // those with a name
}

// port is a port with a name; others have no SRV record.
type port struct {
	name, protocol string // in lower case
	number         uint16
}

// newService takes from a Service what DNS needs. One without an address yet has
// nothing.
func newService(o *corev1.Service) *service {
	s := new(service)
	if o.Spec.Type == corev1.ServiceTypeExternalName {
		s.external = o.Spec.ExternalName
		return s
	}
	s.headless = o.Spec.ClusterIP == corev1.ClusterIPNone
	ips := o.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{o.Spec.ClusterIP} // from before there were two
	}
	s.addrs = parseAddrs(ips)
	for _, p := range o.Spec.Ports {
		s.ports = appendPort(s.ports, p.Name, string(p.Protocol), p.Port)
	}
	return s
}

// slice is what DNS needs of an EndpointSlice.
type slice struct {
	service key
	// from is the cluster that its endpoints are in, where a Service is of many.
	from      string
	ports     []port
	endpoints []endpoint // those that are ready
}

type endpoint struct {
	hostname string // its first label below the Service, given or made
	addrs    []netip.Addr
}

// newSlice takes from an EndpointSlice what DNS needs, of the Service that a label
// names.
func newSlice(o *discoveryv1.EndpointSlice, label string) *slice {
	s := &slice{service: key{o.Namespace, o.Labels[label]}}
	if label == labelImport {
		s.from = o.Labels[labelFrom]
	}
	for _, p := range o.Ports {
		if p.Name != nil && p.Port != nil {
			protocol := corev1.ProtocolTCP
			if p.Protocol != nil {
				protocol = *p.Protocol
			}
			s.ports = appendPort(s.ports, *p.Name, string(protocol), *p.Port)
		}
	}
	for _, e := range o.Endpoints {
		// Nobody said: ready. Services that publish what is not ready say ready.
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		addrs := parseAddrs(e.Addresses)
		if len(addrs) == 0 {
			continue // an FQDN, which has no address to give
		}
		hostname := hostnameOf(addrs[0])
		if e.Hostname != nil && *e.Hostname != "" {
			hostname = *e.Hostname
		}
		s.endpoints = append(s.endpoints, endpoint{hostname, addrs})
	}
	return s
}

// hostnameOf makes a label of the address of an endpoint without a hostname, in the
// form that CoreDNS has made the usual one.
func hostnameOf(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}

func parseAddrs(texts []string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}

func appendPort(ports []port, name, protocol string, number int32) []port {
	if name == "" {
		return ports
	}
	return append(ports, port{strings.ToLower(name), lowerProtocol(protocol), uint16(number)})
}

// lowerProtocol keeps one text for all that are the same.
func lowerProtocol(p string) string {
	switch corev1.Protocol(p) {
	case corev1.ProtocolTCP, "":
		return "tcp"
	case corev1.ProtocolUDP:
		return "udp"
	case corev1.ProtocolSCTP:
		return "sctp"
	}
	return strings.ToLower(p)
}
