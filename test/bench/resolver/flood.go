// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// roleFlood asks as fast as a server answers and prints a tally as JSON.
const roleFlood = "bench-flood"

const (
	// floodConns sockets, or connections, have so many queries on their way each:
	// a hundred together, which is what dnsperf does when it is not told otherwise.
	floodConns, floodWindow = 4, 25
	// floodPatience is how long an answer may take before it counts as lost.
	floodPatience = time.Second
	// floodFewest answers a turn goes on for, but not for longer than floodLonger: on a
	// machine with much else to do a server may not be let run for a second.
	floodFewest, floodLonger = 1000, 10 * time.Second
)

// tally is what came of a flood.
type tally struct {
	Answered, Wrong, Lost int
	Took                  time.Duration
}

// floodMain asks: address, udp or tcp, seconds, and either a name, in which a star
// becomes another number in each query, or the size of a table and a seed, to ask for
// names drawn from it.
func floodMain(args []string) int {
	runtime.LockOSThread()
	seconds, _ := strconv.Atoi(args[2])
	f := &flood{to: netip.MustParseAddrPort(args[0]), stream: args[1] == "tcp", buf: make([]byte, 64<<10)}
	if err := f.prepare(args[3:]); err != nil {
		return fail("flood", err)
	}
	for i := range f.conns {
		if err := f.open(&f.conns[i]); err != nil {
			return fail("flood", err)
		}
	}
	begin := time.Now()
	if err := f.run(begin.Add(time.Duration(seconds) * time.Second)); err != nil {
		return fail("flood", err)
	}
	f.Took = time.Since(begin)
	if err := json.NewEncoder(os.Stdout).Encode(f.tally); err != nil {
		return fail("flood", err)
	}
	return 0
}

// flood is one load: a thread, without Go's poller.
type flood struct {
	to        netip.AddrPort
	stream    bool
	conns     [floodConns]floodConn
	questions []byte // each with its length in front; asked one after the other, and again
	next      int    // where in questions the next one is
	fresh     string // what follows the number, if every question is to be another
	number    int
	buf       []byte
	tally
}

type floodConn struct {
	fd      int
	waiting int
	heard   time.Time
	rest    []byte // of a stream: an answer that has begun
}

// prepare packs what is known before: the load shall cost the same, whatever it asks.
func (f *flood) prepare(what []string) (err error) {
	if len(what) == 2 {
		names, _ := strconv.Atoi(what[0])
		seed, _ := strconv.ParseUint(what[1], 10, 64)
		f.questions, err = table(names).draw(drawn, seed)
		return err
	}
	if rest, ok := strings.CutPrefix(what[0], "*"); ok {
		f.fresh = rest
		return nil
	}
	f.questions, err = appendQuestion(nil, what[0])
	return err
}

func (f *flood) open(c *floodConn) error {
	kind := unix.SOCK_DGRAM
	if f.stream {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: f.to.Addr().As4(), Port: int(f.to.Port())}); err != nil {
		return err
	}
	if f.stream {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	*c = floodConn{fd: fd, heard: time.Now()}
	return unix.SetNonblock(fd, true)
}

func (f *flood) run(end time.Time) error {
	polled := make([]unix.PollFd, floodConns)
	for now := time.Now(); now.Before(end) || f.Answered < floodFewest && now.Before(end.Add(floodLonger)); now = time.Now() {
		for i := range f.conns {
			c := &f.conns[i]
			if now.Sub(c.heard) > floodPatience {
				f.Lost += c.waiting
				c.waiting, c.heard = 0, now
			}
			for ; c.waiting < floodWindow && f.send(c); c.waiting++ {
			}
			polled[i] = unix.PollFd{Fd: int32(c.fd), Events: unix.POLLIN}
		}
		if _, err := unix.Poll(polled, 100); err != nil && err != unix.EINTR {
			return err
		}
		for i := range f.conns {
			if polled[i].Revents == 0 {
				continue
			}
			if err := f.receive(&f.conns[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// send writes one query with one call, as clients do.
func (f *flood) send(c *floodConn) bool {
	f.number++
	if f.fresh != "" {
		var err error
		if f.questions, err = appendQuestion(f.questions[:0], fmt.Sprintf("n%d%s", f.number, f.fresh)); err != nil {
			return false
		}
	}
	if f.next >= len(f.questions) || f.fresh != "" {
		f.next = 0
	}
	out := f.questions[f.next:]
	out = out[:2+binary.BigEndian.Uint16(out)]
	f.next += len(out)
	binary.BigEndian.PutUint16(out[2:], uint16(f.number))
	if !f.stream {
		out = out[2:]
	}
	n, err := unix.Write(c.fd, out)
	return err == nil && n == len(out)
}

// receive takes what is there.
func (f *flood) receive(c *floodConn) error {
	for {
		n, err := unix.Read(c.fd, f.buf)
		if err == unix.EAGAIN || err == unix.EINTR || err == unix.ECONNREFUSED {
			return nil
		}
		if f.stream && (err != nil || n == 0) {
			_ = unix.Close(c.fd) // some servers close after some queries
			return f.open(c)
		}
		if err != nil {
			return err
		}
		if !f.stream {
			f.heard(c, f.buf[:n])
			continue
		}
		c.rest = append(c.rest, f.buf[:n]...)
		for len(c.rest) >= 2 {
			size := 2 + int(binary.BigEndian.Uint16(c.rest))
			if len(c.rest) < size {
				break
			}
			f.heard(c, c.rest[2:size])
			c.rest = c.rest[size:]
		}
		c.rest = append([]byte(nil), c.rest...)
	}
}

func (f *flood) heard(c *floodConn, answer []byte) {
	if len(answer) < 12 || answer[2]&0x80 == 0 {
		return
	}
	c.waiting, c.heard = max(c.waiting-1, 0), time.Now()
	f.Answered++
	if answer[3]&0xf != 0 {
		f.Wrong++
	}
}
