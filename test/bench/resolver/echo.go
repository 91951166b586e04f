// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// roleEcho is the limit: a server that does nothing but move octets.
const roleEcho = "bench-echo"

// echoMain sends every datagram back with QR set, and everything that comes over TCP.
func echoMain(args []string) int {
	addr := netip.MustParseAddrPort(args[0])
	udp, err := bindSocket(unix.SOCK_DGRAM, addr)
	if err != nil {
		return fail("echo", err)
	}
	tcp, err := bindSocket(unix.SOCK_STREAM, addr)
	if err != nil {
		return fail("echo", err)
	}
	if err := unix.Listen(tcp, 128); err != nil {
		return fail("echo", err)
	}
	go echoStreams(tcp)
	runtime.LockOSThread()
	b := newBatch(true)
	for {
		n, err := b.receive(udp, batchSize)
		if err != nil {
			return fail("echo", err)
		}
		for i := range n {
			b.data[i][2] |= 0x80
			b.iovecs[i].SetLen(int(b.headers[i].n))
		}
		if err := b.send(udp, n); err != nil {
			return fail("echo", err)
		}
	}
}

// echoStreams waits for all connections with one epoll.
func echoStreams(listener int) {
	runtime.LockOSThread()
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, listener, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(listener)})
	}
	if err != nil {
		os.Exit(fail("echo", err))
	}
	events, buf := make([]unix.EpollEvent, 64), make([]byte, 64<<10)
	for {
		n, err := unix.EpollWait(poll, events, -1)
		if err != nil && err != unix.EINTR {
			os.Exit(fail("echo", err))
		}
		for _, event := range events[:max(n, 0)] {
			fd := int(event.Fd)
			if fd == listener {
				if conn, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC); err == nil {
					_ = unix.SetsockoptInt(conn, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
					_ = unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, conn, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(conn)})
				}
				continue
			}
			n, err := unix.Read(fd, buf)
			if n > 0 {
				markResponses(buf[:n])
				_, err = unix.Write(fd, buf[:n])
			}
			if n <= 0 || err != nil {
				_ = unix.Close(fd)
			}
		}
	}
}

// markResponses sets QR in whole frames; the load writes no halves.
func markResponses(frames []byte) {
	for len(frames) > 4 {
		frames[4] |= 0x80
		n := 2 + int(frames[0])<<8 + int(frames[1])
		if n > len(frames) {
			return
		}
		frames = frames[n:]
	}
}

func bindSocket(kind int, addr netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	return fd, unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())})
}

func fail(who string, err error) int {
	fmt.Fprintf(os.Stderr, "%s: %v\n", who, err)
	return 1
}
