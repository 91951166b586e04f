// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

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

// attachment is a program on a hook. Where the kernel has no links (before 5.7) the
// program was attached by the legacy call and link is nil.
type attachment struct {
	hook    hook
	cgroup  *os.File // shared, not owned
	program *ebpf.Program
	link    link.Link
}

// attach puts the program on the hook, behind whatever others have attached there.
func attach(cgroup *os.File, h hook, program *ebpf.Program) (*attachment, error) {
	a := &attachment{hook: h, cgroup: cgroup, program: program}
	var err error
	a.link, err = link.AttachRawLink(link.RawLinkOptions{
		Target:  int(cgroup.Fd()),
		Program: program,
		Attach:  h.attach,
	})
	if errors.Is(err, link.ErrNotSupported) {
		err = a.attachLegacy(nil)
	}
	if err != nil {
		return nil, fmt.Errorf("attach %s to %s: %w", h.name, cgroup.Name(), err)
	}
	return a, nil
}

// attachLegacy attaches beside others (BPF_F_ALLOW_MULTI), in the place of old if
// that is not nil.
func (a *attachment) attachLegacy(old *ebpf.Program) error {
	const allowMulti = 1 << 1 // BPF_F_ALLOW_MULTI
	opts := link.RawAttachProgramOptions{
		Target:  int(a.cgroup.Fd()),
		Program: a.program,
		Attach:  a.hook.attach,
		Flags:   allowMulti,
	}
	if old != nil {
		opts.Anchor = link.ReplaceProgram(old)
	}
	return link.RawAttachProgram(opts)
}

// update replaces the program in one step: there is no moment without one.
func (a *attachment) update(program *ebpf.Program) error {
	old := a.program
	a.program = program
	var err error
	if a.link != nil {
		err = a.link.Update(program)
	} else {
		err = a.attachLegacy(old)
	}
	if err != nil {
		a.program = old
		return fmt.Errorf("update %s: %w", a.hook.name, err)
	}
	return nil
}

// detach takes our own program off the hook, and no other. It is off when detach
// returns; dropping the last reference to a link would detach some time later.
func (a *attachment) detach() error {
	var err error
	if a.link != nil {
		err = a.link.Detach()
		if errors.Is(err, link.ErrNotSupported) { // before 5.9
			err = nil
		}
	} else {
		err = link.RawDetachProgram(link.RawDetachProgramOptions{
			Target:  int(a.cgroup.Fd()),
			Program: a.program,
			Attach:  a.hook.attach,
		})
		if errors.Is(err, unix.ENOENT) { // somebody was faster
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", a.hook.name, err)
	}
	return nil
}

// close gives up the process's references; a pinned program stays attached.
func (a *attachment) close() {
	if a.link != nil {
		_ = a.link.Close()
	}
	_ = a.program.Close()
}
