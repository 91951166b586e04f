// SPDX-License-Identifier: Apache-2.0

// Package nscookie asks a BPF program for the number by which BPF programs know a network
// namespace (bpf_get_netns_cookie, Linux 5.7). It is for kernels before 5.14, which do
// not tell user space (SO_NETNS_COOKIE).
//
// The program is attached to the cgroup of the calling process, for as long as one call
// of getsockname takes, on that hook (Linux 5.8), which hardly anybody uses. It lets
// every call pass as it is, and looks at no socket but ours.
package nscookie

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Ask returns the cookie of the calling thread's network namespace. cgroup is the
// directory of the calling process's cgroup: a socket has the programs of the cgroup in
// which it was made. Needs CAP_BPF and CAP_NET_ADMIN.
func Ask(cgroup string) (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := rlimit.RemoveMemlock(); err != nil {
		return 0, fmt.Errorf("raise RLIMIT_MEMLOCK: %w", err)
	}
	result, err := ebpf.NewMap(&ebpf.MapSpec{Name: "steer_cookie", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return 0, err
	}
	defer result.Close()
	program, err := load(fd, result)
	if err != nil {
		return 0, err
	}
	defer program.Close()
	if err := run(cgroup, program, fd); err != nil {
		return 0, err
	}
	var cookie uint64
	if err := result.Lookup(uint32(0), &cookie); err != nil {
		return 0, err
	}
	if cookie == 0 {
		return 0, fmt.Errorf("the program on %s did not run", cgroup)
	}
	return cookie, nil
}

// Check tells whether the kernel has such a program, without attaching it.
func Check() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise RLIMIT_MEMLOCK: %w", err)
	}
	program, err := ebpf.NewProgram(spec(asm.FnGetNetnsCookie.Call()))
	if err != nil {
		return err
	}
	return program.Close()
}

// load loads a program that stores the cookie when that socket is asked for its name.
func load(fd int, result *ebpf.Map) (*ebpf.Program, error) {
	socket, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	const key, value = -16, -8 // on the stack
	return ebpf.NewProgram(spec(
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnGetSocketCookie.Call(),
		asm.LoadImm(asm.R1, int64(socket), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, "pass"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetNetnsCookie.Call(),
		asm.StoreMem(asm.RFP, value, asm.R0, asm.DWord),
		asm.StoreImm(asm.RFP, key, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, result.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, value),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(),
	))
}

func spec(body ...asm.Instruction) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name:         "steer_cookie",
		Type:         ebpf.CGroupSockAddr,
		AttachType:   ebpf.AttachCgroupInet4GetSockname,
		License:      "Dual BSD/GPL",
		Instructions: append(asm.Instructions(body), asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), asm.Return()),
	}
}

// run attaches the program, asks the socket for its name, and detaches.
func run(cgroup string, program *ebpf.Program, fd int) error {
	dir, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCgroupInet4GetSockname})
	if err != nil {
		return fmt.Errorf("attach to %s: %w", cgroup, err)
	}
	defer l.Close() // also detaches, if a little later
	if _, err := unix.Getsockname(fd); err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	return l.Detach()
}
