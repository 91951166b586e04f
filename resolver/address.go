// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// transport is how an upstream is asked.
type transport uint8

const (
	plainDNS  transport = iota // UDP, and TCP where the answer does not fit
	plainTCP                   // TCP alone
	overTLS                    // RFC 7858
	overHTTPS                  // RFC 8484
)

// schemes are the words for transports, with the usual port.
var schemes = map[string]struct {
	transport transport
	port      uint16
}{"udp": {plainDNS, 53}, "tcp": {plainTCP, 53}, "tls": {overTLS, 853}, "https": {overHTTPS, 443}}

// usualPath is that of RFC 8484's examples, and of most servers.
const usualPath = "/dns-query"

// Upstream is a server to forward to. It is comparable.
type Upstream struct {
	transport transport
	addr      netip.AddrPort
	name      string // that the certificate must have; the address without one
	path      string // of HTTPS
}

var (
	_ encoding.TextMarshaler   = Upstream{}
	_ encoding.TextUnmarshaler = (*Upstream)(nil)
)

// plain is a server of the ordinary kind.
func plain(addr netip.AddrPort) Upstream { return Upstream{addr: addr} }

// ParseUpstream reads a server. It is an address, so that no other server has to be
// asked for it first. The forms are:
//
//	192.0.2.53  192.0.2.53:5353  2001:db8::53  [2001:db8::53]:5353
//	tcp://192.0.2.53                             never by UDP
//	tls://192.0.2.53#dns.example.org             DNS over TLS, port 853
//	https://192.0.2.53/dns-query#dns.example.org DNS over HTTPS, port 443
//
// The certificate must be for the name behind "#", or for the address without one.
func ParseUpstream(text string) (Upstream, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = "udp", text
	}
	kind, ok := schemes[scheme]
	if !ok {
		return Upstream{}, fmt.Errorf("upstream %q: scheme %q is none of udp, tcp, tls, https", text, scheme)
	}
	u := Upstream{transport: kind.transport}
	rest, u.name, ok = strings.Cut(rest, "#")
	if ok && u.transport < overTLS {
		return Upstream{}, fmt.Errorf("upstream %q: only tls and https have a name to verify", text)
	}
	if ok {
		if _, err := parseName(u.name); err != nil {
			return Upstream{}, fmt.Errorf("upstream %q: %w", text, err)
		}
		u.name = strings.ToLower(strings.TrimSuffix(u.name, "."))
	}
	if u.transport == overHTTPS {
		var path string
		if rest, path, ok = strings.Cut(rest, "/"); ok {
			u.path = "/" + path
		} else {
			u.path = usualPath
		}
	}
	addr, err := parseAddrPort(rest, kind.port)
	if err != nil {
		return Upstream{}, fmt.Errorf("upstream %q: %w", text, err)
	}
	u.addr = addr
	return u, u.check()
}

// parseAddrPort reads an address with or without a port.
func parseAddrPort(text string, port uint16) (netip.AddrPort, error) {
	// A port first: what stands behind the zone of an address may be anything.
	if a, err := netip.ParseAddrPort(text); err == nil {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
	}
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		text = strings.TrimSuffix(inner, "]")
	}
	if a, err := netip.ParseAddr(text); err == nil && !strings.ContainsAny(a.Zone(), "[]") {
		return netip.AddrPortFrom(a.Unmap(), port), nil
	}
	return netip.AddrPort{}, errors.New("want an address such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53")
}

func (u Upstream) check() error {
	if a := u.addr; !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
		return fmt.Errorf("upstream %q is not the address and port of a server", u)
	}
	return nil
}

// String is the form that ParseUpstream reads.
func (u Upstream) String() string {
	name := ""
	if u.name != "" {
		name = "#" + u.name
	}
	switch u.transport {
	case plainTCP:
		return "tcp://" + u.addr.String()
	case overTLS:
		return "tls://" + u.addr.String() + name
	case overHTTPS:
		return "https://" + u.addr.String() + u.path + name
	}
	return u.addr.String()
}

// MarshalText implements encoding.TextMarshaler.
func (u Upstream) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *Upstream) UnmarshalText(text []byte) (err error) {
	*u, err = ParseUpstream(string(text))
	return err
}

// host is the name that a certificate must have.
func (u Upstream) host() string {
	if u.name != "" {
		return u.name
	}
	return u.addr.Addr().WithZone("").String()
}

// network is what a query goes out by.
func (u Upstream) network(tcp bool) string {
	switch {
	case u.transport == overHTTPS:
		return "https"
	case u.transport == overTLS:
		return "tls"
	case u.transport == plainTCP || tcp:
		return "tcp"
	}
	return "udp"
}

// Route sends the names at and below a suffix to servers of their own.
type Route struct {
	Suffix    string // "." is all names
	Upstreams []Upstream
}

// ParseRoute reads "cluster2.example.org=192.0.2.5,192.0.2.6", with servers as
// ParseUpstream has them.
func ParseRoute(text string) (Route, error) {
	suffix, list, ok := strings.Cut(text, "=")
	if !ok || suffix == "" {
		return Route{}, fmt.Errorf("route %q: want a suffix, =, and servers, such as cluster2.example.org=192.0.2.5,192.0.2.6", text)
	}
	r := Route{Suffix: suffix}
	for server := range strings.SplitSeq(list, ",") {
		u, err := ParseUpstream(strings.TrimSpace(server))
		if err != nil {
			return Route{}, fmt.Errorf("route %q: %w", suffix, err)
		}
		r.Upstreams = append(r.Upstreams, u)
	}
	_, err := r.name()
	return r, err
}

func (r Route) name() (wireName, error) {
	if r.Suffix == "." {
		return rootName, nil
	}
	name, err := parseName(r.Suffix)
	if err != nil {
		return "", fmt.Errorf("route %q: %w", r.Suffix, err)
	}
	return name, nil
}
