// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader/nscookie"
)

// NetNS is a network namespace without a name. The test's descriptor, and
// whatever runs in it, keep it alive.
type NetNS struct {
	tb   testing.TB
	file *os.File
}

// NewNetNS makes an empty network namespace whose loopback device is up. New
// devices in it skip IPv6 duplicate address detection, which would keep an
// address unusable for a second or more.
func NewNetNS(tb testing.TB) *NetNS {
	tb.Helper()
	Privileged(tb)
	file, err := unshareNetNS()
	if err != nil {
		tb.Fatalf("make network namespace: %v", err)
	}
	tb.Cleanup(func() { file.Close() })

	ns := &NetNS{tb: tb, file: file}
	ns.disableDAD()
	handle := ns.netlink()
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err != nil {
		tb.Fatalf("find lo: %v", err)
	}
	if err := handle.LinkSetUp(lo); err != nil {
		tb.Fatalf("bring lo up: %v", err)
	}
	return ns
}

// CurrentNetNS is the namespace that the calling thread is in, for a test that
// lives in one of its own as a whole.
func CurrentNetNS(tb testing.TB) *NetNS {
	tb.Helper()
	file, err := threadNetNS()
	if err != nil {
		tb.Fatalf("find network namespace: %v", err)
	}
	tb.Cleanup(func() { file.Close() })
	return &NetNS{tb: tb, file: file}
}

// For returns the same namespace, reporting to tb: processes that a subtest
// starts then end with the subtest.
func (ns *NetNS) For(tb testing.TB) *NetNS {
	return &NetNS{tb: tb, file: ns.file}
}

// Do runs f on the calling goroutine with its thread inside the namespace, and
// brings the thread back afterwards, also when f panics or ends the test with
// Fatal. Sockets that f opens and processes that f starts live in the namespace;
// goroutines that f starts do not. Calls nest.
func (ns *NetNS) Do(f func()) {
	ns.tb.Helper()
	leave, err := ns.enter()
	if err != nil {
		ns.tb.Fatalf("enter network namespace: %v", err)
	}
	defer leave()
	f()
}

// Start starts cmd inside the namespace, which it enters with setns alone: the
// mount namespace, and with it the cgroup tree below /sys, stays the test's own.
// A process that the test has not waited for is killed when the test ends.
func (ns *NetNS) Start(cmd *exec.Cmd) {
	ns.tb.Helper()
	ns.Do(func() { start(ns.tb, cmd) })
}

// Path names the namespace for any process that may look into this one, as long
// as the test lasts.
func (ns *NetNS) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd())
}

// File is the test's descriptor of the namespace; do not close it.
func (ns *NetNS) File() *os.File { return ns.file }

// Cookie is the number by which BPF programs know the namespace (bpf_get_netns_cookie).
func (ns *NetNS) Cookie() uint64 {
	ns.tb.Helper()
	var cookie uint64
	ns.Do(func() {
		var err error
		if cookie, err = netnsCookie(); err != nil {
			ns.tb.Fatalf("read namespace cookie: %v", err)
		}
	})
	return cookie
}

// netnsCookie reads the cookie of the calling thread's namespace; before Linux 5.14 by a
// program on the test's own cgroup.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if !errors.Is(err, unix.ENOPROTOOPT) {
		return cookie, err
	}
	own, err := ownCgroup()
	if err != nil {
		return 0, err
	}
	return nscookie.Ask(own)
}

// enter moves the calling thread into the namespace and locks it to the
// goroutine. If the way back fails the thread stays locked, so that the runtime
// destroys it with the goroutine and nobody else meets it.
func (ns *NetNS) enter() (leave func(), err error) {
	runtime.LockOSThread()
	home, err := threadNetNS()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	if err := setNetNS(ns.file); err != nil {
		home.Close()
		runtime.UnlockOSThread()
		return nil, err
	}
	return func() {
		defer home.Close()
		if err := setNetNS(home); err != nil {
			ns.tb.Errorf("leave network namespace: %v", err)
			return
		}
		runtime.UnlockOSThread()
	}, nil
}

// disableDAD sets the default of devices that are made later.
func (ns *NetNS) disableDAD() {
	ns.tb.Helper()
	ns.Do(func() {
		for _, conf := range []string{"all", "default"} {
			path := "/proc/sys/net/ipv6/conf/" + conf + "/accept_dad"
			if err := os.WriteFile(path, []byte("0"), 0); err != nil {
				ns.tb.Fatalf("disable duplicate address detection: %v: the tests need IPv6", err)
			}
		}
	})
}

// netlink opens a netlink handle inside the namespace; the caller closes it.
func (ns *NetNS) netlink() *netlink.Handle {
	ns.tb.Helper()
	handle, err := netlink.NewHandleAt(netns.NsHandle(ns.file.Fd()))
	if err != nil {
		ns.tb.Fatalf("open netlink in namespace: %v", err)
	}
	return handle
}

// unshareNetNS makes a namespace and returns to the one it came from.
func unshareNetNS() (*os.File, error) {
	runtime.LockOSThread()
	home, err := threadNetNS()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("unshare: %w", err)
	}
	file, err := threadNetNS()
	if back := setNetNS(home); back != nil {
		// The thread stays locked, see enter.
		return nil, back
	}
	runtime.UnlockOSThread()
	return file, err
}

// threadNetNS opens the calling thread's namespace.
func threadNetNS() (*os.File, error) {
	return os.Open("/proc/thread-self/ns/net")
}

// setNetNS moves the calling thread.
func setNetNS(ns *os.File) error {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return nil
}
