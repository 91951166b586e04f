// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The programs on one hook of one cgroup run one after the other, those of requests and
// those of replies in the same order. A load balancer that gives a nameserver another address
// has to run after us: in front, it sees a reply come from our target, which tells it
// nothing, and then we call it by the address that the load balancer chose. The application
// has never heard of that, and goes on waiting.

// CheckOrder tells whether a program of somebody else runs in front of the datapath's on a
// hook of the cgroup itself, or would, if there is no datapath yet. Programs of a cgroup
// below run before those above, whatever their order.
func CheckOrder(opts Options) Finding {
	f := Finding{Check: "order", Need: "nobody in front who rewrites addresses of nameservers", Have: "nobody in front"}
	d, err := newDatapath(opts, seams{})
	if err != nil {
		f.Have = "unknown: there is no cgroup" // a finding of its own says why
		return f
	}
	defer d.Close()
	_ = d.open() // what there is of it
	first := canGoFirst()
	ahead, err := d.ahead(first)
	switch {
	case errors.Is(err, unix.EPERM):
		f.Have, f.Severity, f.Remedy = "unknown: no right to ask", Warning, "see the capabilities"
	case err != nil:
		f.Have, f.Severity, f.Remedy = "unknown: "+err.Error(), Warning, "see the other findings"
	case len(ahead) > 0:
		f.Have, f.Severity = ahead[0], Warning
		if more := len(ahead) - 1; more > 0 {
			f.Have += fmt.Sprintf(", and %d more", more)
		}
		f.Remedy = "if it balances load, replies seem to come from a server that nobody asked: steer a cgroup below this one (--cgroup), since its programs run first"
		if first {
			f.Remedy = "if it balances load, replies seem to come from a server that nobody asked: unload and load again, to be the first"
		}
	}
	return f
}

// ahead names the programs in front of ours, or all where ours would be the last: it is not
// there, and cannot go first.
func (d *Datapath) ahead(first bool) ([]string, error) {
	own := make(map[string]ebpf.ProgramID)
	for _, a := range d.attachments {
		id, attached, err := a.runs()
		if err != nil {
			return nil, err
		}
		if attached {
			own[a.hook.name] = id
		}
	}
	var out []string
	for _, h := range hooks() {
		ids, _, err := queryHook(d.opts.Cgroup, h)
		if err != nil {
			return nil, err
		}
		if ours := slices.Index(ids, own[h.name]); ours >= 0 {
			ids = ids[:ours]
		} else if first {
			ids = nil
		}
		for _, id := range ids {
			out = append(out, fmt.Sprintf("program %d (%s) on %s", id, programName(id), h.name))
		}
	}
	return out, nil
}

// canGoFirst tells whether the kernel lets a link go in front of others (Linux 6.17, and
// some before): one that does not, refuses the flag before it looks for the cgroup.
func canGoFirst() bool {
	h := hooks()[0]
	program, err := tinyProgram(h)
	if err != nil {
		return false
	}
	defer program.Close()
	attr := struct {
		program, target, attachType, flags, relative, pad uint32
		revision                                          uint64
	}{
		program: uint32(program.FD()), target: ^uint32(0), attachType: uint32(h.attach), flags: before,
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_LINK_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	return errno == unix.EBADF
}
