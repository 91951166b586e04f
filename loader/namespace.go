// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
	"github.com/dnsteer/dnsteer/loader/nscookie"
)

// NamespaceCookie returns the number by which the datapath knows the network namespace
// of the calling thread. Before Linux 5.14 the kernel does not tell (SO_NETNS_COOKIE), and
// a program is attached to the process's own cgroup for a moment, which does.
func NamespaceCookie() (uint64, error) {
	cookie, err := toldCookie()
	if !errors.Is(err, unix.ENOPROTOOPT) {
		return cookie, err
	}
	cgroup, err := OwnCgroup()
	if err != nil {
		return 0, err
	}
	cookie, err = nscookie.Ask(cgroup)
	if err != nil {
		return 0, fmt.Errorf("ask for the cookie of the network namespace: %w", err)
	}
	return cookie, nil
}

// toldCookie is what the kernel tells of the calling thread's network namespace.
func toldCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return cookie, os.NewSyscallError("getsockopt", err)
}

// isOf tells whether a socket belongs to the calling thread's network namespace.
// Before Linux 5.14 that takes CAP_NET_ADMIN; the error is EPERM without it.
func isOf(fd int) (bool, error) {
	own, err := toldCookie()
	if err == nil {
		theirs, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return own == theirs, err
	}
	namespace, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
	if err != nil {
		return false, err
	}
	defer unix.Close(namespace)
	var here, there unix.Stat_t
	err = errors.Join(unix.Stat("/proc/thread-self/ns/net", &here), unix.Fstat(namespace, &there))
	return here.Dev == there.Dev && here.Ino == there.Ino, err
}

// EnrolNamespace makes a network namespace a scope by its cookie. foreign says that
// whatever listens on the target is the resolver, with no heartbeat; otherwise the
// entry only says what holds while our own listener is dead: who is exempt, and
// whether to fail closed. It stays until WithdrawNamespace or Unload; called again it
// replaces the settings.
//
// A foreign resolver is not asked to know tags: a socket that asks two nameservers then
// sees both reply as the one it asked last. Sockets that connect show the local address
// that they would have had if the calling thread is in that namespace, as its addresses
// are now; else a loopback address.
func (d *Datapath) EnrolNamespace(cookie uint64, s Scope, foreign bool) error {
	var flags bpf.SteerScopeFlag
	if foreign {
		flags = bpf.SteerScopeFlagSCOPE_FOREIGN
		s.Untagged = true
	}
	v := s.settings(flags)
	// Addresses of another namespace than the calling thread's would be wrong there.
	if own, err := NamespaceCookie(); err == nil && own == cookie {
		for family := range v.Source {
			v.Source[family] = toAddress(sourceFor(elsewhere(family)))
			v.PrimarySource[family] = toAddress(sourceFor(fromAddress(v.Primary[family])))
		}
	}
	enrolled := d.maps[bpf.SteerMapSteerEnrolled]
	err := enrolled.Put(cookie, v)
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("enrol network namespace %d: there are %d already, those that have gone and nobody withdrew included: %w",
			cookie, enrolled.MaxEntries(), err)
	}
	if err != nil {
		return fmt.Errorf("enrol network namespace %d: %w", cookie, err)
	}
	return nil
}

// NodeNamespaces returns the cookies of the namespaces that EnrolNamespace has enrolled on
// behalf of the node (Scope.Node), and nobody has withdrawn: also of those that have gone
// since. Which are there still, the kernel does not tell.
func (d *Datapath) NodeNamespaces() ([]uint64, error) {
	found := make(map[uint64]bool)
	var cookie uint64
	var s bpf.SteerScope
	all := d.maps[bpf.SteerMapSteerEnrolled].Iterate()
	for all.Next(&cookie, &s) {
		if s.Flags&bpf.SteerScopeFlagSCOPE_NODE != 0 {
			found[cookie] = true
		}
	}
	if err := all.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) { // it changes meanwhile
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// WithdrawNamespace undoes EnrolNamespace. It is no error if there is nothing to undo.
func (d *Datapath) WithdrawNamespace(cookie uint64) error {
	err := d.maps[bpf.SteerMapSteerEnrolled].Delete(cookie)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("withdraw network namespace %d: %w", cookie, err)
	}
	return nil
}
