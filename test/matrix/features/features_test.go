// SPDX-License-Identifier: Apache-2.0

package features

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	probe "github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main(m, testenv.Roles{"write-map": writeMap})
}

const allowMulti = 1 << 1 // BPF_F_ALLOW_MULTI

// The values of all attributes.
const (
	yes = "yes"
	no  = "no"
)

// report writes an attribute for an error of a feature that may be missing.
func report(t *testing.T, key string, err error) {
	t.Helper()
	value := yes
	if err != nil {
		value = no
		t.Logf("%s: %v", key, err)
	}
	t.Attr(key, value)
}

var hooks = []struct {
	name   string
	attach ebpf.AttachType
}{
	{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg},
	{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg},
	{"getpeername4", ebpf.AttachCgroupInet4GetPeername},
	{"getpeername6", ebpf.AttachCgroupInet6GetPeername},
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg},
	{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg},
	{"connect4", ebpf.AttachCGroupInet4Connect},
	{"connect6", ebpf.AttachCGroupInet6Connect},
}

// Each hook, attached in either way.
func TestHooks(t *testing.T) {
	testenv.Privileged(t)
	cgroup := testenv.NewCgroup(t).File()
	for _, h := range hooks {
		program, err := load(h.attach)
		report(t, "hook."+h.name, err)
		if err != nil {
			continue
		}
		defer program.Close()
		l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: program, Attach: h.attach})
		if err == nil {
			err = l.Close()
		}
		report(t, "link."+h.name, err)
		report(t, "legacy."+h.name, attachLegacy(cgroup, program, h.attach))
	}
}

// load loads a program that lets everything pass.
func load(attach ebpf.AttachType) (*ebpf.Program, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.CGroupSockAddr,
		AttachType:   attach,
		License:      "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
}

func attachLegacy(cgroup *os.File, program *ebpf.Program, attach ebpf.AttachType) error {
	target := int(cgroup.Fd())
	err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: target, Program: program, Attach: attach, Flags: allowMulti})
	if err != nil {
		return err
	}
	return link.RawDetachProgram(link.RawDetachProgramOptions{Target: target, Program: program, Attach: attach})
}

// What the programs call and the maps that they use.
func TestPrograms(t *testing.T) {
	testenv.Privileged(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	for name, helper := range map[string]asm.BuiltinFunc{
		"sk_lookup_udp": asm.FnSkLookupUdp,
		"sk_storage":    asm.FnSkStorageGet,
		"netns_cookie":  asm.FnGetNetnsCookie,
		"bind":          asm.FnBind,
		"probe_read":    asm.FnProbeReadKernel,
	} {
		report(t, "helper."+name, probe.HaveProgramHelper(ebpf.CGroupSockAddr, helper))
	}
	report(t, "ringbuf", probe.HaveMapType(ebpf.RingBuf))
	_, err := btf.LoadKernelSpec()
	report(t, "btf", err)
	report(t, "order", orderedAttach(t))
}

// orderedAttach attaches one program before another of the same cgroup.
func orderedAttach(t *testing.T) error {
	t.Helper()
	const attach = ebpf.AttachCGroupInet4Connect
	target := int(testenv.NewCgroup(t).File().Fd())
	for _, anchor := range []link.Anchor{nil, link.Head()} {
		program, err := load(attach)
		if err != nil {
			return err
		}
		defer program.Close()
		err = link.RawAttachProgram(link.RawAttachProgramOptions{
			Target: target, Program: program, Attach: attach, Flags: allowMulti, Anchor: anchor,
		})
		if err != nil {
			return err
		}
		// The cgroup, and all that is attached to it, goes with the test.
	}
	return nil
}

// What user space asks of the kernel.
func TestSystemCalls(t *testing.T) {
	testenv.Privileged(t)
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	_, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	report(t, "so_netns_cookie", err)
	_, err = loader.NamespaceCookie()
	report(t, "netns_cookie", err)

	s6, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Close(s6)
	}
	report(t, "ipv6", err)

	self, err := unix.PidfdOpen(os.Getpid(), 0) // Linux 5.3
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(self)
	copied, err := unix.PidfdGetfd(self, s, 0)
	if err == nil {
		err = unix.Close(copied)
	}
	report(t, "pidfd_getfd", err)

	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	t.Attr("release", unix.ByteSliceToString(name.Release[:]))
}

// Whether a process without capabilities may write a map whose descriptor it was
// given, as the resolver's worker does with its heartbeat.
func TestUnprivilegedMap(t *testing.T) {
	testenv.Privileged(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "map")
	defer f.Close()
	cmd := testenv.Command(t, "write-map")
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1337, Gid: 1337}}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	report(t, "unprivileged_map", err)
}

// writeMap writes the map that it got as its first extra file.
func writeMap([]string) int {
	const firstExtra = 3
	m, err := ebpf.NewMapFromFD(firstExtra)
	if err == nil {
		err = m.Put(uint32(0), uint32(1))
	}
	if err != nil {
		fmt.Fprint(os.Stderr, err)
		return 1
	}
	return 0
}
