// SPDX-License-Identifier: Apache-2.0

package oldkernel

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Offsets in union bpf_attr.
const (
	attrMapType      = 0
	attrProgramType  = 0
	attrInstructions = 8 // pointer; their number is before it
	attrLogSize      = 28
	attrLog          = 32
	attrExpected     = 68 // attach type of a program
	attrAttachType   = 8  // of BPF_PROG_ATTACH and BPF_PROG_DETACH
	attrSize         = 72 // as much as is looked at
)

// attributes is a union bpf_attr, with zeros for what the caller did not pass, as the
// kernel has it.
type attributes [attrSize]byte

func (a *attributes) word(offset int) uint32 { return binary.LittleEndian.Uint32(a[offset:]) }
func (a *attributes) long(offset int) uint64 { return binary.LittleEndian.Uint64(a[offset:]) }

// refuse returns with what a bpf(2) call fails, or 0 to let it go on.
func (m Mask) refuse(n *notification) unix.Errno {
	if m.privy && !privileged(n.pid) {
		return unix.EPERM
	}
	number := uint32(n.args[0])
	if m.lacks(command, number) {
		return unix.EINVAL
	}
	var a attributes
	peek(n.pid, n.args[1], a[:min(n.args[2], attrSize)])
	refused := false
	switch number {
	case unix.BPF_MAP_CREATE:
		refused = m.lacks(mapType, a.word(attrMapType))
	case unix.BPF_PROG_LOAD:
		refused = m.lacks(programType, a.word(attrProgramType)) || m.lacks(attachType, a.word(attrExpected)) || m.refuseHelper(n.pid, &a)
	case unix.BPF_PROG_ATTACH, unix.BPF_PROG_DETACH:
		refused = m.lacks(attachType, a.word(attrAttachType))
	}
	if refused {
		return unix.EINVAL
	}
	return 0
}

// refuseHelper looks for a call of a helper that the mask lacks, and says in the
// verifier's log what the old one would have said.
func (m Mask) refuseHelper(pid uint32, a *attributes) bool {
	const (
		size      = 8
		call      = 0x85 // BPF_JMP | BPF_CALL
		wideLoad  = 0x18 // two instructions
		mostInsns = 1 << 20
	)
	program := make([]byte, size*min(a.word(attrInstructions-4), mostInsns))
	peek(pid, a.long(attrInstructions), program)
	for i := 0; i < len(program); i += size {
		insn := program[i:]
		if insn[0] == wideLoad {
			i += size
			continue
		}
		const helperCall = 0 // the source register tells it from a call of our own
		number := binary.LittleEndian.Uint32(insn[4:])
		if insn[0] != call || insn[1]>>4 != helperCall || !m.lacks(helper, number) {
			continue
		}
		text := append([]byte(fmt.Sprintf("invalid func unknown#%d\n", number)), 0)
		if a.long(attrLog) != 0 && int(a.word(attrLogSize)) >= len(text) {
			poke(pid, a.long(attrLog), text)
		}
		return true
	}
	return false
}

// privileged tells whether a thread has CAP_BPF or CAP_SYS_ADMIN.
func privileged(pid uint32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		var set uint64
		if n, _ := fmt.Sscanf(line, "CapEff: %x", &set); n == 1 {
			return set&(1<<unix.CAP_BPF|1<<unix.CAP_SYS_ADMIN) != 0
		}
	}
	return false
}

// peek reads another process's memory. What is not there stays zero: the kernel will
// complain of it itself.
func peek(pid uint32, address uint64, into []byte) {
	if len(into) == 0 {
		return
	}
	local := []unix.Iovec{{Base: &into[0], Len: uint64(len(into))}}
	_, _ = unix.ProcessVMReadv(int(pid), local, []unix.RemoteIovec{{Base: uintptr(address), Len: len(into)}}, 0)
}

// poke writes another process's memory, as far as that may be written.
func poke(pid uint32, address uint64, from []byte) {
	local := []unix.Iovec{{Base: &from[0], Len: uint64(len(from))}}
	_, _ = unix.ProcessVMWritev(int(pid), local, []unix.RemoteIovec{{Base: uintptr(address), Len: len(from)}}, 0)
}
