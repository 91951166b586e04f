// SPDX-License-Identifier: Apache-2.0

package oldkernel

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data.
const (
	dataNumber = 0
	dataArg1   = 24 // its lower half: all that is 64 bits here is little-endian
	dataArg2   = 32
)

// filter is the seccomp program of the mask: bpf(2) is asked about, the rest is decided
// by numbers alone.
func (m Mask) filter() []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		result = unix.BPF_RET | unix.BPF_K
	)
	// ifCall ends with a verdict if the number, which is loaded, matches.
	ifCall := func(number, verdict uint32) []unix.SockFilter {
		return []unix.SockFilter{{Code: equal, K: number, Jf: 1}, {Code: result, K: verdict}}
	}
	program := []unix.SockFilter{{Code: load, K: dataNumber}}
	program = append(program, ifCall(unix.SYS_BPF, unix.SECCOMP_RET_USER_NOTIF)...)
	for number, errno := range m.calls {
		program = append(program, ifCall(number, unix.SECCOMP_RET_ERRNO|uint32(errno))...)
	}
	if m.cookie {
		program = append(program,
			unix.SockFilter{Code: equal, K: unix.SYS_GETSOCKOPT, Jf: 5},
			unix.SockFilter{Code: load, K: dataArg1},
			unix.SockFilter{Code: equal, K: unix.SOL_SOCKET, Jf: 3},
			unix.SockFilter{Code: load, K: dataArg2},
			unix.SockFilter{Code: equal, K: unix.SO_NETNS_COOKIE, Jf: 1},
			unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOPROTOOPT)},
		)
	}
	return append(program, unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ALLOW})
}

// install puts the filter on the calling thread, for good, and returns the descriptor
// by which calls are decided. It takes CAP_SYS_ADMIN, so that set-user-ID programs keep
// working under it.
func (m Mask) install() (listener int, err error) {
	program := m.filter()
	arg := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&arg)))
	switch errno {
	case 0:
		return int(fd), nil
	case unix.EBUSY:
		return 0, fmt.Errorf("hide parts of the kernel: a mask is in force already: %w", errno)
	}
	return 0, fmt.Errorf("hide parts of the kernel (seccomp; as root, Linux 5.5): %w", errno)
}
