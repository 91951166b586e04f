// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/dnsteer/dnsteer/bpf"
)

// LeakReason is how a packet to port 53 came to leave an enrolled namespace.
type LeakReason uint32

// The reasons, as in bpf/leak.h.
const (
	LeakConnected = LeakReason(bpf.LeakLeakReasonLEAK_CONNECTED)
	LeakBound     = LeakReason(bpf.LeakLeakReasonLEAK_BOUND)
	LeakExcluded  = LeakReason(bpf.LeakLeakReasonLEAK_EXCLUDED)
	LeakNoRecord  = LeakReason(bpf.LeakLeakReasonLEAK_NO_RECORD)
	LeakHung      = LeakReason(bpf.LeakLeakReasonLEAK_HUNG)
	LeakUnserved  = LeakReason(bpf.LeakLeakReasonLEAK_UNSERVED)
	LeakRaw       = LeakReason(bpf.LeakLeakReasonLEAK_RAW)
	LeakUnknown   = LeakReason(bpf.LeakLeakReasonLEAK_UNKNOWN)
)

// leakUntold is no reason: it counts events that found no room in the ring buffer.
const leakUntold = bpf.LeakLeakReasonLEAK_UNTOLD

// String is the reason's name in output and metrics.
func (r LeakReason) String() string { return r.about().name }

// MarshalText makes JSON of it.
func (r LeakReason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Meaning is a clause that explains the reason to an operator.
func (r LeakReason) Meaning() string { return r.about().meaning }

func (r LeakReason) about() struct{ name, meaning string } {
	all := leakReasons()
	if int(r) >= len(all) {
		return struct{ name, meaning string }{fmt.Sprintf("reason-%d", uint32(r)), "unknown"}
	}
	return all[r]
}

func leakReasons() []struct{ name, meaning string } {
	return []struct{ name, meaning string }{
		LeakConnected: {"connected", "the socket was connected while no resolver served; it has to connect again"},
		LeakBound:     {"bound", "tied to an interface, or connected to another address"},
		LeakExcluded:  {"excluded", "this nameserver is not to be steered"},
		LeakNoRecord:  {"no-record", "the original destination could not be recorded"},
		LeakHung:      {"hung", "the resolver's heartbeat was older than 2 s"},
		LeakUnserved:  {"unserved", "no authorised resolver listened at that moment"},
		LeakRaw:       {"raw", "a raw socket, which no hook sees"},
		LeakUnknown:   {"unknown", "no hook saw a call to port 53: something else rewrote its destination"},
	}
}

// Leak is a packet to port 53 that left an enrolled namespace unsteered: the first of its
// socket for that reason.
type Leak struct {
	Reason LeakReason `json:"reason"`
	Family string     `json:"family"` // "ipv4", "ipv6": of the packet
	Proto  string     `json:"proto"`  // "udp", "tcp"
	Server netip.Addr `json:"server"` // where it goes, after NAT of this host
	Port   uint16     `json:"port"`   // the socket's own
	UID    uint32     `json:"uid"`    // who made the socket, as number of the initial user namespace
	// PID and Command are of the sender; zero and empty if nobody can tell, because a TCP
	// connection was there before the watch, and its process has gone.
	PID       uint32 `json:"pid,omitempty"`
	Command   string `json:"command,omitempty"`
	CgroupID  uint64 `json:"cgroup_id"`
	Cgroup    string `json:"cgroup,omitempty"`    // the directory; empty if it is gone
	Namespace uint64 `json:"namespace,omitempty"` // the network namespace's cookie, if it has one yet
	Socket    uint64 `json:"socket"`              // its cookie
}

// LeakCount is how many packets leaked for a reason.
type LeakCount struct {
	Reason  LeakReason `json:"reason"`
	Family  string     `json:"family"`
	Proto   string     `json:"proto"`
	Packets uint64     `json:"packets"`
}

// readLeakCounts returns the counters in the order of the reasons, without zeros.
func readLeakCounts(m *ebpf.Map) ([]LeakCount, error) {
	var out []LeakCount
	for r := range leakReasons() {
		sum, err := sumCalls(m, uint32(r))
		if err != nil {
			return nil, fmt.Errorf("read leak counters: %w", err)
		}
		for f, family := range families() {
			for p, proto := range protocols() {
				if n := sum.Count[f][p]; n > 0 {
					out = append(out, LeakCount{LeakReason(r), family, proto, n})
				}
			}
		}
	}
	return out, nil
}

// parseLeak reads a struct leak; ok is false if it is none.
func parseLeak(raw []byte) (l Leak, ok bool) {
	var event bpf.LeakLeak
	if n, err := binary.Decode(raw, binary.NativeEndian, &event); err != nil || n < len(raw)&^7 {
		return l, false
	}
	if int(event.Family) >= len(families()) || int(event.Protocol) >= len(protocols()) {
		return l, false
	}
	command := make([]byte, 0, len(event.Command))
	for _, c := range event.Command {
		command = append(command, byte(c))
	}
	name, _, _ := strings.Cut(string(command), "\x00")
	return Leak{
		Reason: LeakReason(event.Reason), Family: families()[event.Family], Proto: protocols()[event.Protocol],
		Server: fromAddress(bpf.SteerAddress{Word: event.Server.Word}),
		Port:   binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, event.SourcePort)),
		UID:    event.Uid, PID: event.Pid, Command: name,
		CgroupID: event.Cgroup, Namespace: event.Namespace, Socket: event.Cookie,
	}, true
}
