// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// roleUpstream answers every name with one address, faster than anybody asks.
const roleUpstream = "bench-upstream"

func upstreamMain(args []string) int {
	fd, err := bindSocket(unix.SOCK_DGRAM, netip.MustParseAddrPort(args[0]))
	if err != nil {
		return fail("upstream", err)
	}
	runtime.LockOSThread()
	b := newBatch(true)
	for {
		n, err := b.receive(fd, batchSize)
		if err != nil {
			return fail("upstream", err)
		}
		for i := range n {
			b.iovecs[i].SetLen(answer(&b.data[i], int(b.headers[i].n)))
		}
		if err := b.send(fd, n); err != nil {
			return fail("upstream", err)
		}
	}
}

// answer turns a query of one question, and perhaps an OPT record, into a response
// with one address, and returns its length.
func answer(buf *[2048]byte, n int) int {
	if n < 17 {
		return n
	}
	end := 12
	for end < n && buf[end] != 0 {
		end += 1 + int(buf[end])
	}
	end += 5
	if end > n || n > len(buf)-16 {
		return n
	}
	ttl := uint32(0) // nobody may keep it
	if strings.HasPrefix(string(buf[13:end]), cachedLabel) {
		ttl = 3600
	}
	opt := append([]byte(nil), buf[end:n]...)
	buf[2], buf[3] = 0x80|buf[2]&1, 0x80
	binary.BigEndian.PutUint16(buf[6:], 1)
	out := append(buf[:end], 0xc0, 12, 0, 1, 0, 1)
	out = binary.BigEndian.AppendUint32(out, ttl)
	out = append(out, 0, 4, 192, 0, 2, 2)
	return len(append(out, opt...))
}
