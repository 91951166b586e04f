// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader/nscookie"
)

// Features of the kernel, each found by trying it.

// checkHooks loads the smallest possible program for each hook.
func checkHooks() []Finding {
	var out []Finding
	for _, h := range hooks() {
		f := Finding{Check: "hook " + h.name, Need: "in the kernel (since Linux " + h.since + ")", Have: "there"}
		program, err := tinyProgram(h)
		if err != nil {
			f.Have, f.Severity, f.Remedy = tried(err), Failure, "use Linux 5.10 or newer, built with CONFIG_CGROUP_BPF"
			if errors.Is(err, unix.EPERM) {
				f.Remedy = "see the capabilities"
			}
		} else {
			_ = program.Close()
		}
		out = append(out, f)
	}
	return out
}

// tinyProgram loads a program for a hook that does nothing. The caller closes it.
func tinyProgram(h hook) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.CGroupSockAddr,
		AttachType:   h.attach,
		License:      "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
}

// tried words the result of a probe.
func tried(err error) string {
	if errors.Is(err, unix.EPERM) {
		return "unknown: no right to try"
	}
	return "not there: " + err.Error()
}

// checkHelpers tries the helpers without which the programs do not load. Reading kernel
// memory is not among them, see kernelLayout.
func checkHelpers() Finding {
	f := Finding{Check: "helpers", Need: "in the kernel (Linux 5.10 has all)", Have: "there"}
	var missing []string
	for _, helper := range []asm.BuiltinFunc{
		asm.FnSkLookupUdp, asm.FnSkLookupTcp, asm.FnSkRelease, asm.FnSkStorageGet,
		asm.FnGetNetnsCookie, asm.FnBind, asm.FnGetCurrentUidGid,
	} {
		err := features.HaveProgramHelper(ebpf.CGroupSockAddr, helper)
		if errors.Is(err, unix.EPERM) {
			f.Have, f.Remedy, f.Severity = tried(err), "see the capabilities", Failure
			return f
		}
		if err != nil {
			missing = append(missing, helper.String())
		}
	}
	if len(missing) > 0 {
		f.Have, f.Remedy, f.Severity = "without "+strings.Join(missing, ", "), "use Linux 5.10 or newer", Failure
	}
	return f
}

// checkLink makes a link of nothing: a kernel that has links complains of the
// descriptors, one that has not of the command.
func checkLink(opts Options) Finding {
	f := Finding{Check: "bpf_link", Need: "in the kernel (since Linux 5.7)", Have: "there"}
	attr := struct{ program, target, attachType, flags uint32 }{^uint32(0), ^uint32(0), uint32(hooks()[0].attach), 0}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_LINK_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno == unix.EBADF {
		return f
	}
	f.Have, f.Severity, f.Remedy = tried(errno), Warning, "use Linux 5.7 or newer: without it, nobody can watch for leaks"
	if errno == unix.EPERM {
		f.Remedy = "see the capabilities"
	} else if opts.BPFFS == "" {
		f.Remedy += ", and attached by the legacy call, programs outlive a loader that is killed, until the cgroup goes"
	}
	return f
}

func checkLayout() Finding {
	f := Finding{Check: "kernel BTF", Need: "the layout of sockets", Have: "known"}
	if _, err := kernelLayout(); err != nil {
		f.Have, f.Severity = err.Error(), Warning
		f.Remedy = "use a kernel with CONFIG_DEBUG_INFO_BTF, not locked down (lockdown=confidentiality): without it a socket's owner is the task's, interfaces named by IP_PKTINFO or IP_UNICAST_IF go unseen, and nobody can watch for leaks"
	}
	return f
}

func checkPidfd() Finding {
	f := Finding{Check: "pidfd_getfd", Need: "in the kernel (since Linux 5.6)", Have: "there"}
	if _, err := unix.PidfdGetfd(-1, -1, 0); !errors.Is(err, unix.EBADF) {
		f.Have, f.Severity = tried(err), Warning
		f.Remedy = "use Linux 5.6 or newer: without it, sockets that are connected already stay as they are"
	}
	return f
}

// checkCookie does not attach the program that is asked where the kernel does not tell.
func checkCookie() Finding {
	f := Finding{Check: "namespace cookie", Need: "to fail closed, and for a resolver that is not ours", Have: "told by the kernel"}
	_, err := toldCookie()
	if err == nil {
		return f
	}
	f.Have = "told by a program, on our own cgroup for a moment (SO_NETNS_COOKIE: " + err.Error() + ")"
	if err := nscookie.Check(); err != nil {
		f.Have, f.Severity, f.Remedy = tried(err), Warning, "use Linux 5.10 or newer"
	}
	return f
}

// checkUnprivileged asks bpf(2) for an element of nothing, without capabilities. Since
// Linux 5.19 kernel.unprivileged_bpf_disabled leaves alone who was given a descriptor.
func checkUnprivileged() Finding {
	f := Finding{Check: "unprivileged bpf", Need: "maps usable by a worker without capabilities (since Linux 5.19)", Have: "usable"}
	err := withoutCapabilities(func() error {
		attr := struct {
			fd, pad           uint32
			key, value, flags uint64
		}{fd: ^uint32(0)}
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_ELEM, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		if errno == unix.EBADF {
			return nil
		}
		return errno
	})
	if err != nil {
		setting, _ := os.ReadFile("/proc/sys/kernel/unprivileged_bpf_disabled")
		f.Have = fmt.Sprintf("refused: %v, kernel.unprivileged_bpf_disabled=%s", err, strings.TrimSpace(string(setting)))
		f.Severity = Warning
		f.Remedy = "the worker keeps CAP_BPF; or use Linux 5.19 or newer"
	}
	return f
}

// withoutCapabilities calls f on a thread whose effective set is empty. Capabilities are
// a thread's; the runtime throws the thread away if they cannot be given back.
func withoutCapabilities(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var before [2]unix.CapUserData
		if err := unix.Capget(&header, &before[0]); err != nil {
			result <- os.NewSyscallError("capget", err)
			return
		}
		none := before
		none[0].Effective, none[1].Effective = 0, 0
		if err := unix.Capset(&header, &none[0]); err != nil {
			result <- os.NewSyscallError("capset", err)
			return
		}
		err := f()
		if unix.Capset(&header, &before[0]) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}
