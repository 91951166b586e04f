// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// refreshInterval bounds how often addresses are looked up where routes change all the
// time, as on a host that speaks BGP.
const refreshInterval = 200 * time.Millisecond

// routeGroups are the changes after which a socket may have another local address. Links
// are among them, for the kernel does not say which IPv4 routes go with one.
func routeGroups() uint32 {
	var groups uint32
	for _, g := range []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE,
	} {
		groups |= 1 << (g - 1)
	}
	return groups
}

// FollowRoutes calls Refresh whenever addresses, links or routes of the namespace change,
// until stop, which waits for one that is under way. In between it costs a socket and a
// goroutine that sleeps. Call it in the listeners' network namespace, of which it needs
// nothing later: enter is to call its argument there, each time; nil is for a process that
// lives there.
func (e *Enrolment) FollowRoutes(enter func(func() error) error) (stop func(), err error) {
	if enter == nil {
		enter = func(f func() error) error { return f() }
	}
	changes, err := openChanges()
	if err != nil {
		return nil, fmt.Errorf("follow routes: %w", err)
	}
	stopped, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for awaitChange(changes) == nil {
			// It may not be enrolled, or its namespace be going: the next change tells.
			_ = enter(e.Refresh)
			select {
			case <-stopped:
				return
			case <-time.After(refreshInterval):
			}
		}
	}()
	return func() {
		close(stopped)
		_ = changes.Close() // wakes it
		<-ended
	}, nil
}

// openChanges opens a socket that is readable when there was a change.
func openChanges() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: routeGroups()}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "changes of routes"), nil
}

// awaitChange waits for a change, and takes all that there are. What they are does not
// matter; that some were lost (ENOBUFS) is a change too.
func awaitChange(changes *os.File) error {
	raw, err := changes.SyscallConn()
	if err != nil {
		return err
	}
	var broken error
	err = raw.Read(func(fd uintptr) bool {
		var start [1]byte // the kernel throws away what does not fit
		for changed := false; ; changed = true {
			n, err := unix.Read(int(fd), start[:])
			switch {
			case errors.Is(err, unix.EAGAIN):
				return changed
			case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOBUFS):
			case err != nil || n == 0:
				broken = os.NewSyscallError("read", err)
				return true
			}
		}
	})
	return errors.Join(err, broken)
}
