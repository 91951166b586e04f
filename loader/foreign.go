// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"path/filepath"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// What others have attached. The flags with which a hook of a cgroup was first used
// decide who may join there and below.
const (
	allowOverride = 1 << 0 // BPF_F_ALLOW_OVERRIDE: alone, but one below may take its place
	allowMulti    = 1 << 1 // BPF_F_ALLOW_MULTI: any number, here and below; links are this
	before        = 1 << 3 // BPF_F_BEFORE: in front of all others of this cgroup
)

// blocker is a foreign program that was attached alone.
type blocker struct {
	hook    hook
	cgroup  string
	program ebpf.ProgramID
	name    string
	flags   uint32
}

// Error says who is in the way.
func (b *blocker) Error() string {
	return fmt.Sprintf("program %d (%s) is attached to %s of %s without BPF_F_ALLOW_MULTI", b.program, b.name, b.hook.name, b.cgroup)
}

// remedy is what the operator can do about it.
func (b *blocker) remedy() string {
	return fmt.Sprintf("have its owner attach it with BPF_F_ALLOW_MULTI or a link, or detach it: "+
		"bpftool cgroup detach %s %s id %d", b.cgroup, b.hook.name, b.program)
}

// alone finds the program that decides whether others may attach to the hook in the
// cgroup: one in the cgroup itself, or in the nearest ancestor that has any. It returns
// nil if that one allows company, or there is none.
func alone(cgroup string, h hook) *blocker {
	for path := filepath.Clean(cgroup); ; path = filepath.Dir(path) {
		ids, flags, err := queryHook(path, h)
		if err != nil { // above the mount point, or above what we may see
			return nil
		}
		if flags&allowMulti != 0 {
			return nil
		}
		if len(ids) > 0 {
			return &blocker{hook: h, cgroup: path, program: ids[0], name: programName(ids[0]), flags: flags}
		}
	}
}

// exclusive is alone for a program that keeps ours from being attached. One above that
// allows to be overridden does not.
func exclusive(cgroup string, h hook) *blocker {
	b := alone(cgroup, h)
	if b == nil || b.flags&allowOverride != 0 && b.cgroup != filepath.Clean(cgroup) {
		return nil
	}
	return b
}

// queryHook returns what is attached to one hook of one cgroup, and the flags that it
// was attached with. link.QueryPrograms does not tell the flags.
func queryHook(cgroup string, h hook) ([]ebpf.ProgramID, uint32, error) {
	dir, _, err := openCgroup(cgroup)
	if err != nil {
		return nil, 0, err
	}
	defer dir.Close()
	const most = 64 // BPF_CGROUP_MAX_PROGS
	ids := make([]ebpf.ProgramID, most)
	// The head of union bpf_attr for BPF_PROG_QUERY, as it was in Linux 4.15.
	attr := struct {
		target, attachType, queryFlags, attachFlags uint32
		ids                                         uint64
		count, pad                                  uint32
	}{target: uint32(dir.Fd()), attachType: uint32(h.attach), ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: most}
	var pin runtime.Pinner
	pin.Pin(&ids[0])
	defer pin.Unpin()
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return nil, 0, fmt.Errorf("query %s of %s: %w", h.name, cgroup, errno)
	}
	return ids[:attr.count], attr.attachFlags, nil
}

// programName is best effort: it needs CAP_SYS_ADMIN.
func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "?"
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name == "" {
		return "?"
	}
	return info.Name
}
