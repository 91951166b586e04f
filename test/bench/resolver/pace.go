// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// rolePace asks servers in turn at a fixed rate and prints a latency of each as JSON.
const rolePace = "bench-pace"

// paceTurn is how many queries one server has before the next has its turn: few, so that
// what holds the machine up for a while holds up all alike, and many enough that the first
// ones, which find the server cold, are far from a hundredth.
const paceTurn = 500

// latency is what the clients of a fixed rate saw of one server.
type latency struct {
	Took []time.Duration // of each answer, in the order of their coming
	Lost int
}

// paceMain asks for the name of the table: queries a second, turns of each server, their
// addresses.
func paceMain(args []string) int {
	rate, _ := strconv.Atoi(args[0])
	turns, _ := strconv.Atoi(args[1])
	query, err := new(dns.Msg).SetQuestion(tableName+".", dns.TypeA).Pack()
	if err != nil {
		return fail("pace", err)
	}
	sockets := make([]int, 0, len(args))
	for _, arg := range args[2:] {
		fd, err := paceSocket(netip.MustParseAddrPort(arg))
		if err != nil {
			return fail("pace", err)
		}
		sockets = append(sockets, fd)
	}
	runtime.LockOSThread()
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fail("pace", err)
	}
	each := make([]latency, len(sockets))
	for range turns {
		for i, fd := range sockets {
			each[i].add(pace(fd, query, time.Second/time.Duration(rate)))
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(each); err != nil {
		return fail("pace", err)
	}
	return 0
}

func paceSocket(to netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
}

const (
	// paceGrace is how late the last answer may be.
	paceGrace = 200 * time.Millisecond
	// paceStall is what the loop below never takes, unless the machine holds it up.
	paceStall = 50 * time.Microsecond
)

// pace has one turn with a server. It never sleeps: a loop that did would measure how late
// it wakes. Where the machine holds the loop up, that says nothing of the server: what is on
// its way then is not measured, and what was due is sent as far apart as ever, not at once.
func pace(fd int, query []byte, interval time.Duration) (l latency) {
	var sent [paceTurn]time.Time // zero if it has an answer, or is not measured
	buf, next, on := make([]byte, 2048), 0, 0
	for err := error(nil); err == nil; { // late ones of the turn before
		_, err = unix.Read(fd, buf)
	}
	due := time.Now()
	for last := due; on > 0 || next < paceTurn; {
		now := time.Now()
		if late := now.Sub(last); late > paceStall {
			due, on = due.Add(late), 0
			clear(sent[:])
		}
		last = now
		switch {
		case next < paceTurn && !now.Before(due):
			binary.BigEndian.PutUint16(query, uint16(next))
			sent[next] = now
			_, _ = unix.Write(fd, query)
			due, next, on = due.Add(interval), next+1, on+1
		case now.After(due.Add(paceGrace)):
			l.Lost = on
			return l
		}
		if size, err := unix.Read(fd, buf); err == nil && size >= 2 {
			i := int(binary.BigEndian.Uint16(buf))
			if i < next && !sent[i].IsZero() {
				l.Took, sent[i], on = append(l.Took, time.Since(sent[i])), time.Time{}, on-1
			}
		}
	}
	return l
}
