// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dial opens a socket to an upstream in the pod's namespace: its source address, its
// routes and the network policies that hold for it are the pod's. The thread is there
// for the two system calls alone. A connection that takes its time is waited for
// outside.
func (s *nodeScope) dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	var f *os.File
	err := s.home.within(s.namespace, func() (err error) {
		f, err = connect(network, server)
		return err
	})
	if err != nil {
		return nil, dialError(network, server, err)
	}
	defer f.Close() // net.FileConn duplicates it
	if network == "tcp" {
		if err := connected(ctx, f); err != nil {
			return nil, dialError(network, server, err)
		}
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, dialError(network, server, err)
	}
	return conn, nil
}

func dialError(network string, server netip.AddrPort, err error) error {
	return &net.OpError{Op: "dial", Net: network, Addr: net.UDPAddrFromAddrPort(server), Err: err}
}

// connect makes a socket and connects it, without waiting.
func connect(network string, server netip.AddrPort) (*os.File, error) {
	kind := unix.SOCK_DGRAM
	if network == "tcp" {
		kind = unix.SOCK_STREAM
	}
	domain, address, err := sockaddr(server)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, address); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), network), nil
}

// sockaddr is the address for the kernel. A zone is of no meaning here: the resolver
// never has one.
func sockaddr(server netip.AddrPort) (domain int, address unix.Sockaddr, err error) {
	addr, port := server.Addr().Unmap(), int(server.Port())
	switch {
	case addr.Is4():
		return unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: addr.As4()}, nil
	case addr.Is6() && addr.Zone() == "":
		return unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: addr.As16()}, nil
	}
	return 0, nil, fmt.Errorf("%s is no address to connect to", addr)
}

// connected waits until a connection that has begun stands, or cannot, or ctx ends.
func connected(ctx context.Context, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = f.SetWriteDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })()
	var errno int
	var optErr error
	err = raw.Write(func(fd uintptr) bool {
		if !isWritable(int(fd)) {
			return false // wait for it to be
		}
		errno, optErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		return true
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := errors.Join(err, optErr); err != nil {
		return err
	}
	if errno != 0 {
		return os.NewSyscallError("connect", unix.Errno(errno))
	}
	return nil
}

func isWritable(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}
