// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/oldkernel"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// runCookie prints what NamespaceCookie says.
func runCookie([]string) int {
	cookie, err := NamespaceCookie()
	if err != nil {
		fmt.Println(err)
		return 0
	}
	fmt.Println(cookie)
	return 0
}

// cookieWithout is what NamespaceCookie says in a process of that namespace and cgroup
// on a kernel that does not tell.
func cookieWithout(t *testing.T, ns *testenv.NetNS, cgroup *testenv.Cgroup) string {
	t.Helper()
	var out strings.Builder
	oldkernel.Without("SO_NETNS_COOKIE").Do(t, func() {
		cmd := testenv.Command(t, "cookie")
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		cgroup.Enter(cmd)
		ns.For(t).Start(cmd)
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	})
	return strings.TrimSpace(out.String())
}

// Where the kernel does not tell the cookie, a program does, and is gone afterwards.
func TestKernelWithoutCookie(t *testing.T) {
	cgroup := testenv.NewCgroup(t)
	for range 2 {
		ns := testenv.NewNetNS(t)
		if got, want := cookieWithout(t, ns, cgroup), fmt.Sprint(ns.Cookie()); got != want {
			t.Errorf("cookie %s, want %s", got, want)
		}
	}
	found, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.File().Fd()), Attach: ebpf.AttachCgroupInet4GetSockname})
	if err != nil || len(found.Programs) > 0 {
		t.Errorf("left behind: %v, %v", found.Programs, err)
	}
}

// A guest that wants the hook for itself keeps it, and the error says where.
func TestKernelWithoutCookieNorPlace(t *testing.T) {
	ns, cgroup := testenv.NewNetNS(t), testenv.NewCgroup(t)
	guest, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCgroupInet4GetSockname, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(cgroup.File().Fd()), Program: guest, Attach: ebpf.AttachCgroupInet4GetSockname,
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = "ask for the cookie of the network namespace: attach to "
	if got := cookieWithout(t, ns, cgroup); !strings.HasPrefix(got, want+cgroup.Path) {
		t.Errorf("got %q, want %q", got, want+cgroup.Path)
	}
}

// runHere prints whether the socket that it inherits is of its namespace.
func runHere([]string) int {
	here, err := isOf(3)
	fmt.Println(here, err)
	return 0
}

// Whether a socket is of a namespace is known with and without the kernel's cookie; with
// neither that nor CAP_NET_ADMIN, it is known that it is not known.
func TestKernelWithoutCookieOfSocket(t *testing.T) {
	testenv.Privileged(t)
	a, b := testenv.NewNetNS(t), testenv.NewNetNS(t)
	var socket *os.File
	a.Do(func() {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if socket, err = c.(*net.UDPConn).File(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { socket.Close() })
	})
	ask := func(ns *testenv.NetNS, owner uint32) string {
		cmd := testenv.Command(t, "here")
		cmd.Dir = "/"
		cmd.ExtraFiles = []*os.File{socket}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner, Gid: owner}}
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		ns.For(t).Start(cmd)
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
	oldkernel.Without("SO_NETNS_COOKIE").Do(t, func() {
		for owner, want := range map[uint32][2]string{
			0:            {"true <nil>", "false <nil>"},
			DefaultOwner: {"false " + unix.EPERM.Error(), "false " + unix.EPERM.Error()},
		} {
			if got := [2]string{ask(a, owner), ask(b, owner)}; got != want {
				t.Errorf("uid %d, inside and outside: %q, want %q", owner, got, want)
			}
		}
	})
}
