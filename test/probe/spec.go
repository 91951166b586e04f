// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net/netip"
	"time"
)

// Owner1337 is the UID and GID of every owner but OwnerNone, as numbers of the
// process's own user namespace.
const Owner1337 = 1337

// Deadline bounds each receive of a Spec without a Wait, and each TCP connect.
const Deadline = 2 * time.Second

// Family is what kind of socket asks, and how it writes addresses.
type Family string

// The families. Mapped is an AF_INET6 socket that addresses IPv4 as ::ffff:a.b.c.d;
// V6 may do so too, V6Only may not.
const (
	V4     Family = "v4"
	V6     Family = "v6"
	Mapped Family = "mapped"
	V6Only Family = "v6only"
)

// Owner is how the socket comes to its owner.
type Owner string

// The owners. A process in a user namespace is a Child of its own, see Options.
const (
	OwnerNone    Owner = "none"          // made and used by root
	OwnerUID     Owner = "uid"           // made and used by UID 1337
	OwnerGID     Owner = "gid"           // made and used by GID 1337
	OwnerBefore  Owner = "before-setuid" // made by root, which then becomes UID 1337
	OwnerSeteuid Owner = "seteuid"       // made while the effective UID is 1337, used by root
	OwnerPassed  Owner = "passed"        // made by a process of UID 1337, used by root
)

// Call is one system call.
type Call string

// The calls. Those that receive take one answer each; all but Recv ask for its sender.
const (
	Bind         Call = "bind"            // To
	BindDevice   Call = "bind-device"     // SO_BINDTODEVICE to Device
	BindLate     Call = "bind-late"       // To, with IP_BIND_ADDRESS_NO_PORT
	UnicastIf    Call = "unicast-if"      // IP_UNICAST_IF to Device
	UnicastIf6   Call = "unicast-if6"     // IPV6_UNICAST_IF to Device
	StickyInfo   Call = "sticky-pktinfo"  // IPV6_PKTINFO as a socket option: Device, Source
	Connect      Call = "connect"         // To
	Disconnect   Call = "disconnect"      // connect with AF_UNSPEC
	Send         Call = "send"            // a question to the peer; with PktInfo by sendmsg
	SendTo       Call = "sendto"          // a question to To; with PktInfo by sendmsg
	SendMany     Call = "sendmmsg"        // a question to each of Many
	SendFastOpen Call = "sendto-fastopen" // a question to To, which connects
	RecvFrom     Call = "recvfrom"
	RecvMsg      Call = "recvmsg"
	Peek         Call = "peek" // recvfrom with MSG_PEEK
	Recv         Call = "recv"
	Pause        Call = "pause" // wait for the parent, see Child.RunPaused
)

// Step is a call with its arguments.
type Step struct {
	Call    Call             `json:"call"`
	To      netip.AddrPort   `json:"to,omitzero"`
	Many    []netip.AddrPort `json:"many,omitempty"`
	Device  string           `json:"device,omitempty"`
	Source  netip.Addr       `json:"source,omitzero"`
	PktInfo bool             `json:"pktinfo,omitempty"` // with a control message that holds Device and Source
}

// Spec is a sequence of calls on one socket.
type Spec struct {
	Family Family        `json:"family"`
	Stream bool          `json:"stream,omitempty"`
	Owner  Owner         `json:"owner"`
	Steps  []Step        `json:"steps"`
	Wait   time.Duration `json:"wait,omitempty"` // for each receive; zero means Deadline
}

// Answer is what one receive gave.
type Answer struct {
	Question int            `json:"question"` // which of the Spec's questions, from 0
	Text     string         `json:"text"`
	From     netip.AddrPort `json:"from,omitzero"` // invalid if the call gives none
}

// Result is what the application saw. Addresses are as the kernel gave them: those of
// an AF_INET6 socket are never written as IPv4.
type Result struct {
	Answers []Answer       `json:"answers,omitempty"` // by question, then in order of arrival
	Peer    netip.AddrPort `json:"peer,omitzero"`     // getpeername at the end; invalid if not connected
	Local   netip.AddrPort `json:"local,omitzero"`    // getsockname at the end
	Errno   string         `json:"errno,omitempty"`   // the error that ended the sequence, such as "EPERM"
	Stage   Call           `json:"stage,omitempty"`   // the call that failed
	Paused  bool           `json:"paused,omitempty"`  // not a result yet: a Pause was reached
}
