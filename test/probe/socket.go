// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// open makes the Spec's socket on the calling thread, and leaves the thread with the
// credentials that are to use it.
func (s Spec) open(maker *os.File) (int, error) {
	const keep = -1
	switch s.Owner {
	case OwnerUID:
		if err := setThreadUID(Owner1337, Owner1337, Owner1337); err != nil {
			return -1, fmt.Errorf("become owner: %w", err)
		}
	case OwnerGID:
		if err := setThreadGID(Owner1337, Owner1337, Owner1337); err != nil {
			return -1, fmt.Errorf("become owner: %w", err)
		}
	case OwnerSeteuid:
		if err := setThreadUID(keep, Owner1337, keep); err != nil {
			return -1, fmt.Errorf("become owner: %w", err)
		}
	case OwnerPassed:
		return s.receive(maker)
	}
	fd, err := s.socket()
	if err != nil {
		return -1, err
	}
	switch s.Owner {
	case OwnerBefore:
		err = setThreadUID(Owner1337, Owner1337, Owner1337)
	case OwnerSeteuid:
		err = setThreadUID(keep, 0, keep)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("change owner: %w", err)
	}
	return fd, nil
}

// socket makes the socket, with a deadline for whatever may block.
func (s Spec) socket() (int, error) {
	domain, kind := unix.AF_INET6, unix.SOCK_DGRAM
	if s.Family == V4 {
		domain = unix.AF_INET
	}
	if s.Stream {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := s.prepare(fd); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (s Spec) prepare(fd int) error {
	wait := s.Wait
	if wait == 0 {
		wait = Deadline
	}
	receive := unix.NsecToTimeval(wait.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &receive); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	connect := unix.NsecToTimeval(Deadline.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &connect); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if s.Family == V4 {
		return nil
	}
	only := 0
	if s.Family == V6Only {
		only = 1
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only))
}
