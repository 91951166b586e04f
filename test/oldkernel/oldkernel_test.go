// SPDX-License-Identifier: Apache-2.0

package oldkernel_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/oldkernel"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main(m, testenv.Roles{"look": look, "parent": parent})
}

// look prints what a process finds there, by name.
func look([]string) int {
	found := make(map[string]string)
	for name, try := range attempts() {
		found[name] = "there"
		if err := try(); err != nil {
			found[name] = err.Error()
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		return 1
	}
	return 0
}

// parent looks from a process that it starts.
func parent([]string) int {
	self, err := os.Executable()
	if err != nil {
		return 1
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "DNSTEER_TEST_ROLE=look")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return 1
	}
	return 0
}

// attempts use the kernel, by the names of the features, and of more.
func attempts() map[string]func() error {
	hook := func(attach ebpf.AttachType) func() error {
		return func() error { return load(ebpf.CGroupSockAddr, attach, asm.Mov.Imm(asm.R0, 1)) }
	}
	return map[string]func() error{
		"connect":     hook(ebpf.AttachCGroupInet4Connect),
		"sendmsg":     hook(ebpf.AttachCGroupUDP4Sendmsg),
		"recvmsg":     hook(ebpf.AttachCGroupUDP6Recvmsg),
		"getpeername": hook(ebpf.AttachCgroupInet6GetPeername),
		"sk_lookup":   func() error { return load(ebpf.SkLookup, ebpf.AttachSkLookup, asm.Mov.Imm(asm.R0, 1)) },
		"bpf_link": func() error {
			_, err := link.AttachRawLink(link.RawLinkOptions{Target: -1, Program: &ebpf.Program{}})
			if errors.Is(err, link.ErrNotSupported) {
				return link.ErrNotSupported
			}
			return nil // it complains of what it was to link
		},
		"bpf_netns_cookie": func() error {
			return load(ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect, asm.FnGetNetnsCookie.Call())
		},
		"array": func() error { return create(&ebpf.MapSpec{Type: ebpf.Array, MaxEntries: 1}) },
		"socket storage": func() error {
			number := &btf.Int{Name: "int", Size: 4}
			return create(&ebpf.MapSpec{Type: ebpf.SkStorage, Flags: unix.BPF_F_NO_PREALLOC, Key: number, Value: number})
		},
		"pidfd_getfd": func() error {
			if _, err := unix.PidfdGetfd(-1, -1, 0); !errors.Is(err, unix.EBADF) {
				return err
			}
			return nil
		},
		"SO_NETNS_COOKIE": func() error { _, err := option(unix.SO_NETNS_COOKIE); return err },
		"SO_COOKIE":       func() error { _, err := option(unix.SO_COOKIE); return err },
	}
}

func load(kind ebpf.ProgramType, attach ebpf.AttachType, insns ...asm.Instruction) error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: kind, AttachType: attach, License: "GPL",
		Instructions: append(insns, asm.Mov.Imm(asm.R0, 1), asm.Return()),
	})
	if err != nil {
		return err
	}
	return program.Close()
}

func create(spec *ebpf.MapSpec) error {
	spec.KeySize, spec.ValueSize = 4, 4
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	return m.Close()
}

func option(name int) (uint64, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(s)
	return unix.GetsockoptUint64(s, unix.SOL_SOCKET, name)
}

// lookUnder runs a role under a mask and returns what was found missing.
func lookUnder(t *testing.T, m oldkernel.Mask, role string, owner uint32) map[string]string {
	t.Helper()
	var found map[string]string
	m.Do(t, func() {
		cmd := testenv.Command(t, role)
		cmd.Dir, cmd.Stderr = "/", os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner, Gid: owner}}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &found); err != nil {
			t.Fatal(err)
		}
	})
	if len(found) != len(attempts()) {
		t.Fatalf("found only %v", found)
	}
	maps.DeleteFunc(found, func(_, result string) bool { return result == "there" })
	return found
}

// A mask hides what it says, and nothing else.
func TestMasks(t *testing.T) {
	testenv.Privileged(t)
	newer := []string{"SO_NETNS_COOKIE", "getpeername", "sk_lookup"} // than 5.7
	before57 := append([]string{"bpf_link", "bpf_netns_cookie", "pidfd_getfd"}, newer...)
	before52 := append([]string{"recvmsg", "socket storage"}, before57...)
	for _, tc := range []struct {
		mask oldkernel.Mask
		want []string
	}{
		{oldkernel.Mask{}, nil},
		{oldkernel.Without("sendmsg"), []string{"sendmsg"}},
		{oldkernel.Without("recvmsg"), []string{"recvmsg"}},
		{oldkernel.Without("getpeername"), []string{"getpeername"}},
		{oldkernel.Without("bpf_link"), []string{"bpf_link"}},
		{oldkernel.Without("pidfd_getfd", "SO_NETNS_COOKIE"), []string{"pidfd_getfd", "SO_NETNS_COOKIE"}},
		{oldkernel.Without("unprivileged bpf"), nil}, // root may
		{oldkernel.Linux("5.7"), newer},
		{oldkernel.Linux("5.4"), before57},
		{oldkernel.Linux("5.1"), before52},
		{oldkernel.Linux("4.17"), append([]string{"sendmsg"}, before52...)},
	} {
		t.Run(tc.mask.Name, func(t *testing.T) {
			for _, role := range []string{"look", "parent"} {
				found := lookUnder(t, tc.mask, role, 0)
				slices.Sort(tc.want)
				if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, tc.want) {
					t.Errorf("%s: hidden %v, want %v", role, found, tc.want)
				}
			}
			// The test itself goes on with all of them.
			for name, try := range attempts() {
				if err := try(); err != nil {
					t.Errorf("%s is hidden from the test: %v", name, err)
				}
			}
		})
	}
}

// Before Linux 5.19 no process could call bpf(2) at all without CAP_BPF, on a system
// with kernel.unprivileged_bpf_disabled.
func TestUnprivileged(t *testing.T) {
	testenv.Privileged(t)
	usesMap := func(m oldkernel.Mask) string {
		return lookUnder(t, m, "look", 65534)["array"]
	}
	before := usesMap(oldkernel.Mask{})
	if got := usesMap(oldkernel.Without("unprivileged bpf")); !strings.Contains(got, "operation not permitted") {
		t.Errorf("under the mask: %q, without: %q", got, before)
	}
}

// The error of a helper that is not there is the verifier's.
func TestHelperLog(t *testing.T) {
	testenv.Privileged(t)
	got := lookUnder(t, oldkernel.Linux("5.4"), "look", 0)["bpf_netns_cookie"]
	if !strings.Contains(got, "invalid func unknown#122") {
		t.Errorf("load says %q", got)
	}
}

// Masks do not nest, and say so.
func TestNested(t *testing.T) {
	testenv.Privileged(t)
	oldkernel.Without("bpf_link").Do(t, func() {
		if _, err := oldkernel.Without("recvmsg").Enter(); err == nil || !strings.Contains(err.Error(), "in force already") {
			t.Errorf("a mask within a mask: %v", err)
		}
	})
}

func TestUnknownNames(t *testing.T) {
	for name, make := range map[string]func(){
		"Linux 3.2":   func() { oldkernel.Linux("3.2") },
		`feature "x"`: func() { oldkernel.Without("x") },
	} {
		func() {
			defer func() {
				if message := fmt.Sprint(recover()); !strings.Contains(message, name) {
					t.Errorf("%s: %s", name, message)
				}
			}()
			make()
		}()
	}
}
