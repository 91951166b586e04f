// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"
	"slices"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/probe"
)

// expected is all that there is to see of a row.
type expected struct {
	Result probe.Result
	Counts counts
}

// expect walks through the calls of a Spec as the rules have it: DESIGN.md section 5
// for the datapath, socket(7), ip(7) and ipv6(7) for the kernel. Transparency is the
// first of them: but for who answers, the application sees what it would see without a
// datapath. Every exception is marked "limit:".
func (w *world) expect(spec probe.Spec) expected {
	s := &model{w: w, spec: spec, n: namesOf(spec.Family), counts: counts{}}
	for _, step := range spec.Steps {
		if errno := s.step(step); errno != "" {
			s.result.Errno, s.result.Stage = errno, step.Call
			break
		}
	}
	slices.SortStableFunc(s.result.Answers, func(a, b probe.Answer) int { return a.Question - b.Question })
	if s.peer.IsValid() {
		s.result.Peer = s.shown(s.sender(s.peer, s.via))
		if s.restored(s.via) {
			s.count(loader.Restored) // the test's own getpeername
		}
	}
	s.result.Local = s.shown(netip.AddrPortFrom(s.local, s.port()))
	return expected{s.result, s.counts}
}

// way is how a query travels.
type way int

const (
	direct   way = iota // to the address that the application named
	loopback            // steered to 127.0.0.1 or ::1
	tag                 // steered to a tag
)

// model is the socket of a Spec.
type model struct {
	w      *world
	spec   probe.Spec
	n      names
	result probe.Result
	counts counts

	peer      netip.AddrPort // as the application named it; invalid if not connected
	via       way            // to the peer
	filter    netip.AddrPort // where the last peer really was
	local     netip.Addr     // invalid: unspecified
	kept      bool           // local stays when the socket is disconnected
	autobound bool           // it has a port
	tied      []probe.Call   // by these options to an interface

	origin  netip.Addr // what the loopback target stands for on this socket
	purpose bool       // for itself: the application has addressed it
	asked   int
	sent    []query // without an answer yet
}

type query struct {
	number int
	to     netip.AddrPort
	via    way
	lost   bool
}

func (s *model) step(step probe.Step) (errno string) {
	switch step.Call {
	case probe.Bind, probe.BindLate:
		s.local, s.kept, s.autobound = step.To.Addr(), true, step.Call == probe.Bind
	case probe.BindDevice, probe.UnicastIf, probe.UnicastIf6, probe.StickyInfo:
		s.tied = append(s.tied, step.Call)
	case probe.Connect:
		return s.connect(step.To)
	case probe.Disconnect:
		// limit: the source that the datapath gave to a socket at connect is a bound one to
		// the kernel, and outlives the connection.
		s.peer, s.via, s.autobound = netip.AddrPort{}, direct, false
		if !s.kept {
			s.local = netip.Addr{}
		}
	case probe.SendFastOpen:
		if errno := s.connect(step.To); errno != "" {
			return errno
		}
		return s.send(probe.Step{Call: probe.Send})
	case probe.Send:
		return s.send(step)
	case probe.SendTo:
		return s.sendTo(step)
	case probe.SendMany:
		for _, to := range step.Many {
			if errno := s.sendTo(probe.Step{Call: probe.SendTo, To: to}); errno != "" {
				return errno
			}
		}
	case probe.Peek, probe.RecvFrom, probe.RecvMsg, probe.Recv:
		return s.receive(step.Call)
	}
	return ""
}

// decide is the order of decisions on one call to port 53. device says that a message
// names an interface.
func (s *model) decide(to netip.AddrPort, device bool) (loader.Verdict, way) {
	state := s.w.state
	// 1. Who listens? Without a scope nothing else matters; a namespace that is enrolled
	// by its cookie is a scope even if nobody listens.
	switch state {
	case stateDead:
		return loader.NoListener, direct
	case stateStranger, stateLeft:
		return loader.Stranger, direct
	}
	if s.owned() { // 2.
		return loader.Owner, direct
	}
	// 3. No live resolver: to the nameserver, or nowhere.
	switch state {
	case stateHung:
		return loader.Hung, direct
	case stateClosedDead, stateClosedHung:
		return loader.Denied, direct
	}
	// 4. What could never be answered from loopback: a socket or message that is tied to
	// an interface, a socket connected to the nameserver itself.
	if s.seesInterface(device) {
		return loader.Bound, direct
	}
	// 5. The target that stands for the nameserver: loopback for the primary one if the
	// socket has not used that for another purpose, else a tag. A foreign resolver knows
	// no tags: loopback stands for whoever was asked last.
	primary := to.Addr() == s.n.first.Addr()
	switch {
	case state == stateForeign, primary && !s.purpose:
		s.origin, s.purpose = to.Addr(), false
		return loader.Steered, loopback
	}
	return loader.Steered, tag
}

// owned tells whether the socket is the owner's, as netfilter's owner match sees it: who
// made it. The one that was made before setuid is root's.
func (s *model) owned() bool {
	switch s.spec.Owner {
	case probe.OwnerUID, probe.OwnerGID:
		return true
	case probe.OwnerSeteuid, probe.OwnerPassed:
		return !s.w.blind // limit: without kernel BTF, it is the task's, by its real UID
	case probe.OwnerBefore:
		return s.w.blind
	}
	return false
}

// seesInterface tells whether the datapath sees that the socket, or a message, is tied to
// an interface.
func (s *model) seesInterface(device bool) bool {
	if s.w.blind {
		return slices.Contains(s.tied, probe.BindDevice) // limit: without kernel BTF, no more than that
	}
	return device || s.tiedToInterface()
}

// tiedToInterface tells whether the kernel would obey an option of the socket: those of
// IPv6 mean nothing to a v4-mapped destination, those of IPv4 nothing to IPv6.
func (s *model) tiedToInterface() bool {
	is4 := s.n.first.Addr().Is4()
	return slices.ContainsFunc(s.tied, func(c probe.Call) bool {
		switch c {
		case probe.UnicastIf:
			return is4
		case probe.UnicastIf6, probe.StickyInfo:
			return !is4
		}
		return true
	})
}

// hook is a request hook: it counts, and says which way the query goes.
func (s *model) hook(to netip.AddrPort, device bool) (via way, errno string) {
	if s.w.state == stateAbsent || to.Port() != 53 {
		return direct, ""
	}
	verdict, via := s.decide(to, device)
	s.count(verdict)
	if verdict == loader.Denied {
		return direct, "EPERM"
	}
	return via, ""
}

func (s *model) connect(to netip.AddrPort) (errno string) {
	if to.Addr().IsUnspecified() { // the kernel's word for this host
		to = netip.AddrPortFrom(s.n.target.Addr(), to.Port())
	}
	via, errno := s.hook(to, false)
	if errno != "" {
		return errno
	}
	if to == s.n.target {
		s.purpose = true
	}
	if via == direct && !to.Addr().IsLoopback() && s.local.IsValid() && s.local.IsLoopback() && to.Addr().Is4() {
		return "EINVAL" // the kernel routes nothing from 127.0.0.1 to elsewhere
	}
	if !s.local.IsValid() {
		s.local, s.kept = s.source(to, via)
	}
	s.peer, s.via, s.autobound = to, via, true
	s.filter = s.onWire(to, via)
	return ""
}

// onWire is an address that differs for two nameservers if packets to them do. A tag is
// as good as its nameserver.
func (s *model) onWire(to netip.AddrPort, via way) netip.AddrPort {
	if via == loopback {
		return s.n.target
	}
	return to
}

// source is the local address that connect gives to a socket without one.
func (s *model) source(to netip.AddrPort, via way) (source netip.Addr, kept bool) {
	switch {
	case to.Addr().IsLoopback():
		return s.n.target.Addr(), false
	case via == direct:
		return s.n.source, false
	case s.autobound:
		// limit: the datapath can only bind a socket that has no port yet.
		return s.n.target.Addr(), false
	}
	return s.n.source, true
}

func (s *model) sendTo(step probe.Step) (errno string) {
	s.autobound = true // before the hook
	via, errno := s.hook(step.To, step.Device != "")
	if errno != "" {
		return errno
	}
	if step.To == s.n.target && !s.peer.IsValid() {
		s.purpose = true
	}
	// The kernel forgets to take the peer of an AF_INET6 socket out of its receive filter.
	// That is so without a datapath too, and alike: each nameserver has a target of its own.
	filtered := s.filter.IsValid() && s.filter != s.onWire(step.To, via) && !step.To.Addr().Is4()
	s.ask(step.To, via, filtered || s.leavesLoopback(via, step))
	return ""
}

// send asks the peer. No hook runs, but that an AF_INET6 socket with a v4-mapped peer
// names it to the kernel's IPv4 half with every message.
func (s *model) send(step probe.Step) (errno string) {
	if s.spec.Family == probe.Mapped && !s.spec.Stream && s.via == direct {
		if _, errno := s.hook(s.peer, step.Device != ""); errno != "" {
			return errno
		}
	}
	// limit: the interface of a message without name comes too late, the socket is
	// connected to loopback.
	late := s.leavesLoopback(s.via, step)
	// And the kernel keeps what has the source ::1 from leaving the host.
	astray := s.via == direct && s.local.IsLoopback() && !s.peer.Addr().IsLoopback()
	s.ask(s.peer, s.via, late || astray)
	return ""
}

// leavesLoopback tells whether a message is steered and nevertheless leaves by an
// interface, since the datapath did not see that it would.
func (s *model) leavesLoopback(via way, step probe.Step) bool {
	return via != direct && (step.Device != "" || s.tiedToInterface())
}

func (s *model) ask(to netip.AddrPort, via way, lost bool) {
	s.sent = append(s.sent, query{s.asked, to, via, lost})
	s.asked++
}

func (s *model) receive(call probe.Call) (errno string) {
	q := s.sent[0]
	if q.lost {
		return "EAGAIN"
	}
	if call != probe.Peek {
		s.sent = s.sent[1:]
	}
	answer := probe.Answer{Question: q.number, Text: s.text(q)}
	if call != probe.Recv {
		answer.From = s.shown(s.sender(q.to, q.via))
		if s.restored(q.via) {
			s.count(loader.Restored)
		}
	}
	s.result.Answers = append(s.result.Answers, answer)
	return ""
}

// text says who answered, and for the resolver whom it thinks that we asked.
func (s *model) text(q query) string {
	resolver := q.via != direct || q.to == s.n.target
	switch {
	case resolver && (s.w.state == stateForeign || s.w.state == stateStranger):
		return "foreign"
	case resolver && s.w.agent && q.to == s.n.target:
		return "server=" + s.n.first.Addr().String()
	case resolver && s.w.agent: // it forwards
		return "server=" + q.to.Addr().String()
	case resolver && q.to == s.n.target:
		return "resolver origin=" + s.n.first.Addr().String()
	case resolver:
		return "resolver origin=" + q.to.Addr().String()
	}
	return "server=" + q.to.Addr().String()
}

// sender is whom the application sees: the nameserver that it asked.
func (s *model) sender(to netip.AddrPort, via way) netip.AddrPort {
	switch {
	case via != loopback:
		return to
	case s.purpose:
		return s.n.target
	}
	// limit: without tags all that comes from loopback is from the last that was asked.
	return netip.AddrPortFrom(s.origin, 53)
}

// restored tells whether a reply hook changes what comes that way.
func (s *model) restored(via way) bool {
	return via == tag || via == loopback && !s.purpose
}

// port is 1 for any, as the test shows ports that the kernel chose.
func (s *model) port() uint16 {
	if s.autobound {
		return 1
	}
	return 0
}

// shown is how the socket's family writes an address.
func (s *model) shown(a netip.AddrPort) netip.AddrPort {
	addr := a.Addr()
	switch {
	case s.spec.Family == probe.V4 && !addr.IsValid():
		addr = netip.IPv4Unspecified()
	case !addr.IsValid():
		addr = netip.IPv6Unspecified()
	case s.spec.Family != probe.V4:
		addr = netip.AddrFrom16(addr.As16())
	}
	return netip.AddrPortFrom(addr, a.Port())
}

func (s *model) count(v loader.Verdict) {
	at := verdict{v, "ipv6", "udp"}
	if s.n.first.Addr().Is4() {
		at.Family = "ipv4"
	}
	if s.spec.Stream {
		at.Proto = "tcp"
	}
	s.counts[at]++
}
