// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
)

// packed is what DNS needs of an object, in as few octets as will do: a cluster may have
// half a million endpoints. Equal objects are equal strings.
type packed string

const (
	packHeadless byte = 1 << iota
	packExternal
)

func (s *service) pack() packed {
	if s.external != "" {
		return packed(append([]byte{packExternal}, s.external...))
	}
	flags := byte(0)
	if s.headless {
		flags = packHeadless
	}
	return packed(appendPorts(appendAddrs([]byte{flags}, s.addrs), s.ports))
}

func (p packed) service() *service {
	r := reader{string(p[1:])}
	if p[0]&packExternal != 0 {
		return &service{external: r.rest}
	}
	s := &service{headless: p[0]&packHeadless != 0}
	s.addrs, s.ports = r.addrs(), r.ports()
	return s
}

// pack leaves out whose the slice is.
func (s *slice) pack() packed {
	b := appendPorts(appendText(nil, s.from), s.ports)
	b = binary.AppendUvarint(b, uint64(len(s.endpoints)))
	for _, e := range s.endpoints {
		hostname := e.hostname
		if hostname == hostnameOf(e.addrs[0]) {
			hostname = ""
		}
		b = appendAddrs(appendText(b, hostname), e.addrs)
	}
	return packed(b)
}

func (p packed) slice(of key) *slice {
	r := reader{string(p)}
	s := &slice{service: of, from: r.text(), ports: r.ports()}
	for range r.number() {
		e := endpoint{hostname: r.text(), addrs: r.addrs()}
		if e.hostname == "" {
			e.hostname = hostnameOf(e.addrs[0])
		}
		s.endpoints = append(s.endpoints, e)
	}
	return s
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// appendAddrs says in the lowest bit of their number whether they tell how long they are:
// those of IPv4 alone need not.
func appendAddrs(b []byte, addrs []netip.Addr) []byte {
	number := uint64(len(addrs)) << 1
	if slices.ContainsFunc(addrs, netip.Addr.Is6) {
		number |= 1
	}
	b = binary.AppendUvarint(b, number)
	for _, a := range addrs {
		if number&1 == 0 {
			b = append(b, a.AsSlice()...)
		} else {
			b = appendText(b, string(a.AsSlice()))
		}
	}
	return b
}

// protocols are those that take an octet alone; any other has its text behind that of none.
var protocols = []string{"", "tcp", "udp", "sctp"}

func appendPorts(b []byte, ports []port) []byte {
	b = binary.AppendUvarint(b, uint64(len(ports)))
	for _, p := range ports {
		b = appendText(b, p.name)
		known := max(0, slices.Index(protocols, p.protocol))
		b = append(b, byte(known))
		if known == 0 {
			b = appendText(b, p.protocol)
		}
		b = binary.BigEndian.AppendUint16(b, p.number)
	}
	return b
}

// reader unpacks what was packed here.
type reader struct{ rest string }

func (r *reader) number() int {
	n, used := uint64(0), 0
	for shift := 0; ; shift += 7 {
		c := r.rest[used]
		used++
		n |= uint64(c&0x7f) << shift
		if c < 0x80 {
			break
		}
	}
	r.rest = r.rest[used:]
	return int(n)
}

func (r *reader) octets(n int) string {
	text := r.rest[:n]
	r.rest = r.rest[n:]
	return text
}

func (r *reader) text() string { return r.octets(r.number()) }

func (r *reader) addrs() (addrs []netip.Addr) {
	number := r.number()
	for range number >> 1 {
		octets := net.IPv4len
		if number&1 == 1 {
			octets = r.number()
		}
		a, _ := netip.AddrFromSlice([]byte(r.octets(octets)))
		addrs = append(addrs, a)
	}
	return addrs
}

func (r *reader) ports() (ports []port) {
	for range r.number() {
		p := port{name: r.text(), protocol: protocols[r.octets(1)[0]]}
		if p.protocol == "" {
			p.protocol = r.text()
		}
		p.number = uint16(r.octets(1)[0])<<8 | uint16(r.octets(1)[0])
		ports = append(ports, p)
	}
	return ports
}
