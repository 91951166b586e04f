// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"github.com/cilium/ebpf"

	"github.com/dnsteer/dnsteer/bpf"
)

// hook is one attach point.
type hook struct {
	name    string // also the name of its pins
	attach  ebpf.AttachType
	since   string // first kernel that has it
	program string
	request bool // decides where a query goes; the others show where a reply is from
}

// hooks lists every attach point in the order in which they are attached: replies
// first, so that no steered query is ever answered from the wrong address.
func hooks() []hook {
	return []hook{
		{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg, "5.2", bpf.SteerProgSteerRecvmsg4, false},
		{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg, "5.2", bpf.SteerProgSteerRecvmsg6, false},
		{"getpeername4", ebpf.AttachCgroupInet4GetPeername, "5.8", bpf.SteerProgSteerGetpeer4, false},
		{"getpeername6", ebpf.AttachCgroupInet6GetPeername, "5.8", bpf.SteerProgSteerGetpeer6, false},
		{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, "4.18", bpf.SteerProgSteerSendmsg4, true},
		{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, "4.18", bpf.SteerProgSteerSendmsg6, true},
		{"connect4", ebpf.AttachCGroupInet4Connect, "4.17", bpf.SteerProgSteerConnect4, true},
		{"connect6", ebpf.AttachCGroupInet6Connect, "4.17", bpf.SteerProgSteerConnect6, true},
	}
}
