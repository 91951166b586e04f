// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attachment is a program on a hook. Where the kernel has no links (before 5.7) the
// program was attached by the legacy call and link is nil.
type attachment struct {
	hook    hook
	cgroup  *os.File // shared, not owned
	program *ebpf.Program
	link    link.Link
	isNext  bool // its program's pin has not been renamed yet, since the Upgrade died
}

// mostPrograms is how many the kernel takes on one hook of one cgroup
// (BPF_CGROUP_MAX_PROGS).
const mostPrograms = 64

// attach puts the program on the hook, in front of whatever others have attached there,
// or behind it where the kernel cannot do that. The error wraps ErrExclusive if one of them
// does not allow company.
func attach(cgroup *os.File, h hook, program *ebpf.Program, legacy bool) (*attachment, error) {
	a := &attachment{hook: h, cgroup: cgroup, program: program}
	err := error(link.ErrNotSupported)
	if !legacy {
		err = a.attachLink()
	}
	if errors.Is(err, link.ErrNotSupported) {
		err = a.attachLegacy(nil)
	}
	if errors.Is(err, unix.EPERM) {
		if found := exclusive(cgroup.Name(), h); found != nil {
			err = fmt.Errorf("%w: %w: %w", ErrExclusive, found, err)
		}
	}
	if errors.Is(err, unix.E2BIG) {
		err = fmt.Errorf("there are %d programs, and the kernel takes no more: %w", mostPrograms, err)
	}
	if err != nil {
		return nil, fmt.Errorf("attach %s to %s: %w", h.name, cgroup.Name(), err)
	}
	return a, nil
}

// attachLink asks for the first place: who rewrites addresses in front of us sees replies
// before we say where they are from, and cannot take back what it did to their query.
func (a *attachment) attachLink() error {
	opts := link.RawLinkOptions{
		Target:  int(a.cgroup.Fd()),
		Program: a.program,
		Attach:  a.hook.attach,
		Flags:   before,
	}
	raw, err := link.AttachRawLink(opts)
	if errors.Is(err, unix.EINVAL) { // no flags before Linux 6.17
		opts.Flags = 0
		raw, err = link.AttachRawLink(opts)
	}
	if err != nil {
		return err
	}
	defer raw.Close()
	// The raw link does not tell its cgroup; one made of a descriptor does.
	fd, err := unix.FcntlInt(uintptr(raw.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	l, err := link.NewFromFD(fd)
	if err != nil {
		return err
	}
	a.link = l
	return nil
}

// attachLegacy attaches beside others (BPF_F_ALLOW_MULTI), in the place of old if
// that is not nil.
func (a *attachment) attachLegacy(old *ebpf.Program) error {
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

// update replaces the program in one step: there is no moment without one. The caller
// closes the old one.
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

// runs returns the id of the program that is on the hook through this attachment, and
// false if there is none: the cgroup is gone, or somebody has detached it.
func (a *attachment) runs() (ebpf.ProgramID, bool, error) {
	if a.link != nil {
		info, err := a.link.Info()
		if err != nil {
			return 0, false, fmt.Errorf("inspect link %s: %w", a.hook.name, err)
		}
		// A link without cgroup is what the kernel leaves of one that was detached.
		return info.Program, info.Cgroup() != nil && info.Cgroup().CgroupId != 0, nil
	}
	id, err := programID(a.program)
	if err != nil || a.cgroup == nil { // without its cgroup it is nowhere
		return id, false, err
	}
	attached, err := attachedTo(a.cgroup, a.hook)
	if err != nil {
		return 0, false, err
	}
	return id, slices.Contains(attached, id), nil
}

func programID(p *ebpf.Program) (ebpf.ProgramID, error) {
	info, err := p.Info()
	if err != nil {
		return 0, fmt.Errorf("inspect program: %w", err)
	}
	id, _ := info.ID()
	return id, nil
}

// attachedTo lists the programs on one hook of the cgroup itself, ours and others'.
func attachedTo(cgroup *os.File, h hook) ([]ebpf.ProgramID, error) {
	found, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: h.attach})
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) { // the cgroup was removed
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("query %s of %s: %w", h.name, cgroup.Name(), err)
	}
	var ids []ebpf.ProgramID
	for _, p := range found.Programs {
		ids = append(ids, p.ID)
	}
	return ids, nil
}

// detach takes our own program off the hook, and no other. It is off when detach
// returns; dropping the last reference to a link would detach some time later.
func (a *attachment) detach() error {
	var err error
	if a.link != nil {
		err = a.link.Detach()
		if errors.Is(err, link.ErrNotSupported) { // before 5.9: it goes with its pin
			err = nil
		}
	} else {
		err = a.detachLegacy()
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", a.hook.name, err)
	}
	return nil
}

// detachLegacy looks before it detaches: on a hook with a program that allows no company
// the kernel detaches that one, whichever it was asked to. Once ours is there, all are
// named.
func (a *attachment) detachLegacy() error {
	_, attached, err := a.runs()
	if !attached || err != nil {
		return err
	}
	err = link.RawDetachProgram(link.RawDetachProgramOptions{
		Target:  int(a.cgroup.Fd()),
		Program: a.program,
		Attach:  a.hook.attach,
	})
	if errors.Is(err, unix.ENOENT) { // somebody was faster
		return nil
	}
	return err
}

// close gives up the process's references; a pinned program stays attached.
func (a *attachment) close() {
	if a.link != nil {
		_ = a.link.Close()
	}
	_ = a.program.Close()
}
