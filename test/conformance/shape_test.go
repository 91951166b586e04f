// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"
	"slices"
	"time"

	"github.com/dnsteer/dnsteer/test/probe"
)

// shape is a sequence of calls that some application makes.
type shape struct {
	name     string
	stream   bool
	families []probe.Family // that have it; nil means all
	resolver bool           // it talks to the resolver on purpose, so one must be there
	wait     time.Duration  // for each receive; zero means probe.Deadline
	steps    func(n names) []probe.Step
}

func (s shape) has(f probe.Family) bool { return s.families == nil || slices.Contains(s.families, f) }

// shortWait is for the shapes whose queries are lost by design of the kernel.
const shortWait = 20 * time.Millisecond

// device is the interface that leads to the nameservers.
const device = "eth0"

func to(c probe.Call, a netip.AddrPort) probe.Step { return probe.Step{Call: c, To: a} }
func call(c probe.Call) probe.Step                 { return probe.Step{Call: c} }
func tied(c probe.Call) probe.Step                 { return probe.Step{Call: c, Device: device} }

func steps(s ...probe.Step) []probe.Step { return s }

// nativeIPv6 are the families whose packets are IPv6.
func nativeIPv6() []probe.Family { return []probe.Family{probe.V6, probe.V6Only} }

// withoutIPv6Only are the families that have IPv4 options.
func withoutIPv6Only() []probe.Family { return []probe.Family{probe.V4, probe.V6, probe.Mapped} }

func shapes() []shape {
	return slices.Concat(plainShapes(), boundShapes(), pktInfoShapes(), reconnectShapes(), purposeShapes(), streamShapes())
}

// plainShapes are what resolvers do: libc, Go, c-ares and the rest.
func plainShapes() []shape {
	return []shape{
		{name: "connected", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), call(probe.Send), call(probe.RecvFrom))
		}},
		{name: "connected other server", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.other), call(probe.Send), call(probe.RecvFrom))
		}},
		{name: "connected twice asked", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), call(probe.Send), call(probe.Send), call(probe.RecvFrom), call(probe.RecvMsg))
		}},
		{name: "connected and named", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), to(probe.SendTo, n.first), call(probe.RecvFrom))
		}},
		{name: "unconnected", steps: func(n names) []probe.Step {
			return steps(to(probe.SendTo, n.first), call(probe.RecvFrom))
		}},
		{name: "unconnected other server", steps: func(n names) []probe.Step {
			return steps(to(probe.SendTo, n.other), call(probe.RecvMsg))
		}},
		{name: "two servers", steps: func(n names) []probe.Step {
			return steps(to(probe.SendTo, n.first), to(probe.SendTo, n.other), call(probe.RecvFrom), call(probe.RecvFrom))
		}},
		{name: "two servers in turn", steps: func(n names) []probe.Step {
			return steps(to(probe.SendTo, n.other), call(probe.RecvFrom), to(probe.SendTo, n.first), call(probe.RecvFrom))
		}},
		{name: "sendmmsg", steps: func(n names) []probe.Step {
			many := probe.Step{Call: probe.SendMany, Many: []netip.AddrPort{n.first, n.other, n.first}}
			return steps(many, call(probe.RecvFrom), call(probe.RecvFrom), call(probe.RecvFrom))
		}},
		{name: "peek", steps: func(n names) []probe.Step {
			return steps(to(probe.SendTo, n.first), call(probe.Peek), call(probe.RecvFrom))
		}},
		{name: "recv without name", steps: func(n names) []probe.Step {
			return steps(to(probe.SendTo, n.other), call(probe.Recv))
		}},
		{name: "connect and getsockname", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.other))
		}},
		{name: "unspecified address", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.unspecified()))
		}},
	}
}

// boundShapes tie the socket to something.
func boundShapes() []shape {
	ask := func(first probe.Step) func(n names) []probe.Step {
		return func(n names) []probe.Step {
			return steps(first, to(probe.SendTo, n.first), call(probe.RecvFrom))
		}
	}
	askConnected := func(first probe.Step) func(n names) []probe.Step {
		return func(n names) []probe.Step {
			return steps(first, to(probe.Connect, n.first), call(probe.Send), call(probe.RecvFrom))
		}
	}
	return []shape{
		{name: "bound to address", steps: func(n names) []probe.Step {
			return steps(to(probe.Bind, n.own()), to(probe.SendTo, n.first), to(probe.SendTo, n.other), call(probe.RecvFrom), call(probe.RecvFrom))
		}},
		{name: "bound to address, connected", steps: func(n names) []probe.Step {
			return steps(to(probe.Bind, n.own()), to(probe.Connect, n.other), call(probe.Send), call(probe.RecvFrom))
		}},
		{name: "bound to address without port, connected", steps: func(n names) []probe.Step {
			return steps(to(probe.BindLate, n.second()), to(probe.Connect, n.first), call(probe.Send), call(probe.RecvFrom))
		}},
		{name: "bound to device", steps: ask(tied(probe.BindDevice))},
		{name: "bound to device, connected", steps: askConnected(tied(probe.BindDevice))},
		{name: "IP_UNICAST_IF", families: withoutIPv6Only(), steps: ask(tied(probe.UnicastIf))},
		{name: "IP_UNICAST_IF, connected", families: withoutIPv6Only(), steps: askConnected(tied(probe.UnicastIf))},
		{name: "IPV6_UNICAST_IF", families: append(nativeIPv6(), probe.Mapped), steps: ask(tied(probe.UnicastIf6))},
		{name: "IPV6_UNICAST_IF, connected", families: append(nativeIPv6(), probe.Mapped), steps: askConnected(tied(probe.UnicastIf6))},
	}
}

// pktInfoShapes choose interface and source for a message.
func pktInfoShapes() []shape {
	return []shape{
		{name: "PKTINFO with interface", steps: func(n names) []probe.Step {
			return steps(probe.Step{Call: probe.SendTo, To: n.first, PktInfo: true, Device: device}, call(probe.RecvFrom))
		}},
		{name: "PKTINFO with source", steps: func(n names) []probe.Step {
			return steps(probe.Step{Call: probe.SendTo, To: n.first, PktInfo: true, Source: n.source}, call(probe.RecvFrom))
		}},
		{name: "PKTINFO without interface", steps: func(n names) []probe.Step {
			return steps(probe.Step{Call: probe.SendTo, To: n.other, PktInfo: true}, call(probe.RecvMsg))
		}},
		{name: "sticky PKTINFO with interface", families: append(nativeIPv6(), probe.Mapped), steps: func(n names) []probe.Step {
			return steps(tied(probe.StickyInfo), to(probe.SendTo, n.first), call(probe.RecvFrom))
		}},
		{name: "connected, PKTINFO without name", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), probe.Step{Call: probe.Send, PktInfo: true}, call(probe.RecvFrom))
		}},
		{name: "connected, PKTINFO with interface, without name", wait: shortWait, steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), probe.Step{Call: probe.Send, PktInfo: true, Device: device}, call(probe.RecvFrom))
		}},
	}
}

// reconnectShapes give one socket several peers.
func reconnectShapes() []shape {
	return []shape{
		{name: "AF_UNSPEC and another server", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), call(probe.Send), call(probe.RecvFrom), call(probe.Disconnect),
				to(probe.Connect, n.other), call(probe.Send), call(probe.RecvFrom))
		}},
		{name: "AF_UNSPEC and unconnected", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), call(probe.Disconnect), to(probe.SendTo, n.first), call(probe.RecvFrom))
		}},
		{name: "AF_UNSPEC and unconnected other server", wait: shortWait, steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.other), call(probe.Disconnect), to(probe.SendTo, n.first), call(probe.RecvFrom))
		}},
		{name: "AF_UNSPEC and nothing", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), call(probe.Disconnect))
		}},
		{name: "connect twice", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), to(probe.Connect, n.other), call(probe.Send), call(probe.RecvFrom))
		}},
		{name: "connect twice, same server", steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), call(probe.Send), call(probe.RecvFrom), to(probe.Connect, n.first), call(probe.Send), call(probe.RecvFrom))
		}},
		{name: "sendto, then connect", steps: func(n names) []probe.Step {
			return steps(to(probe.SendTo, n.first), call(probe.RecvFrom), to(probe.Connect, n.first), call(probe.Send), call(probe.RecvFrom))
		}},
	}
}

// purposeShapes talk to the resolver itself.
func purposeShapes() []shape {
	return []shape{
		{name: "resolver on purpose", resolver: true, steps: func(n names) []probe.Step {
			return steps(to(probe.SendTo, n.target), call(probe.RecvFrom))
		}},
		{name: "resolver on purpose, connected", resolver: true, steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.target), call(probe.Send), call(probe.RecvFrom))
		}},
		{name: "resolver on purpose, then a server", resolver: true, steps: func(n names) []probe.Step {
			return steps(to(probe.SendTo, n.target), call(probe.RecvFrom), to(probe.SendTo, n.first), call(probe.RecvFrom))
		}},
		{name: "a server, then the resolver on purpose", resolver: true, steps: func(n names) []probe.Step {
			return steps(to(probe.SendTo, n.first), call(probe.RecvFrom), to(probe.SendTo, n.target), call(probe.RecvFrom))
		}},
		{name: "connected to a server, then the resolver on purpose", resolver: true, steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), call(probe.Send), call(probe.RecvFrom),
				to(probe.Connect, n.target), call(probe.Send), call(probe.RecvFrom))
		}},
		{name: "resolver on purpose, AF_UNSPEC, then a server", resolver: true, wait: shortWait, steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.target), call(probe.Disconnect), to(probe.SendTo, n.first), call(probe.RecvFrom))
		}},
		{name: "connected to the resolver, then a server", resolver: true, wait: shortWait, steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.target), to(probe.Connect, n.first), call(probe.Send), call(probe.RecvFrom))
		}},
	}
}

func streamShapes() []shape {
	return []shape{
		{name: "TCP", stream: true, steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.first), call(probe.Send), call(probe.Recv))
		}},
		{name: "TCP other server", stream: true, steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.other), call(probe.Send), call(probe.Recv), call(probe.Send), call(probe.Recv))
		}},
		{name: "TCP bound to address", stream: true, steps: func(n names) []probe.Step {
			return steps(to(probe.Bind, n.own()), to(probe.Connect, n.first), call(probe.Send), call(probe.Recv))
		}},
		{name: "TCP bound to device", stream: true, steps: func(n names) []probe.Step {
			return steps(tied(probe.BindDevice), to(probe.Connect, n.first), call(probe.Send), call(probe.Recv))
		}},
		{name: "TCP Fast Open", stream: true, steps: func(n names) []probe.Step {
			return steps(to(probe.SendFastOpen, n.first), call(probe.Recv))
		}},
		{name: "TCP to the resolver on purpose", stream: true, resolver: true, steps: func(n names) []probe.Step {
			return steps(to(probe.Connect, n.target), call(probe.Send), call(probe.Recv))
		}},
	}
}

// own is an address to bind to: the client's, any port.
func (n names) own() netip.AddrPort { return netip.AddrPortFrom(n.source, 0) }

// second is the client's other address, which the kernel would not choose by itself.
func (n names) second() netip.AddrPort { return netip.AddrPortFrom(n.alternative, 0) }

// unspecified is "this host", to connect and sendto.
func (n names) unspecified() netip.AddrPort {
	if n.first.Addr().Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 53)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), 53)
}
