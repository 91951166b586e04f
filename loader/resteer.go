// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
)

// Sockets that were connected before the datapath came, or that outlive it, are moved
// by connecting them again: a UDP socket may connect as often as it likes, the hook
// runs for the cgroup of the socket whoever calls, and the application keeps its
// descriptor, port and peer name. TCP connections end by themselves.

// Resteer steers the UDP sockets of the cgroup's processes that are connected to a
// nameserver already, and returns how many it connected again. Call it after Enrol. A
// reply that is under way meanwhile reaches the socket all the same, for 5 s or until
// Close.
//
// Needs Linux 5.6 and CAP_SYS_PTRACE; without CAP_NET_RAW such replies are lost.
func (d *Datapath) Resteer() (int, error) { return d.ResteerIn() }

// ResteerIn is Resteer for the sockets of some network namespaces alone, named as /proc
// does ("net:[4026531840]"); for all of them without a name.
func (d *Datapath) ResteerIn(names ...string) (int, error) {
	return d.reconnect(isNameserver, connectAgain, false, names)
}

// Return gives the UDP sockets that are connected to a target back to their
// nameserver, and returns how many. Steering must have ended: it would take them again.
// Replies and privileges are as with Resteer.
func (d *Datapath) Return() (int, error) { return d.ReturnIn() }

// ReturnIn is to Return what ResteerIn is to Resteer. Steering must have ended in those
// namespaces.
func (d *Datapath) ReturnIn(names ...string) (int, error) {
	return d.reconnect(d.isTarget, connectBack, true, names)
}

func isNameserver(remote netip.AddrPort) bool { return remote.Port() == 53 }

func (d *Datapath) isTarget(remote netip.AddrPort) bool {
	_, tag := tagNumber(remote.Addr(), d.Port())
	return remote.Port() == d.Port() && (tag || remote.Addr().IsLoopback())
}

// reconnect calls again on every UDP socket of the cgroup's processes, in the namespaces
// of these names, whose remote address matches, and strays, on those that match in the same network namespaces but
// are held by processes elsewhere: a descriptor can be passed on, and its socket stays
// the cgroup's. A process or socket that goes meanwhile is no error.
func (d *Datapath) reconnect(match func(netip.AddrPort) bool, again func(fd int) (bool, error), strays bool, names []string) (int, error) {
	pids, err := processes(d.opts.Cgroup)
	if err != nil {
		return 0, err
	}
	namespaces := findNamespaces(pids, names, match)
	defer namespaces.close()
	errs := []error{namespaces.collect(pids)}
	if strays && namespaces.missing() {
		all, err := allProcesses()
		errs = append(errs, err, namespaces.collect(all))
	}
	moved, err := namespaces.move(again, &d.late)
	return moved, errors.Join(append(errs, err)...)
}
