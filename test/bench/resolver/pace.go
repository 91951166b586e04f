// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// rolePace asks at a fixed rate and prints a latency as JSON.
const rolePace = "bench-pace"

// latency is what the clients of a fixed rate saw.
type latency struct {
	P50, P99 time.Duration
	Sent     int
	Lost     int
}

// paceMain asks one server for the name of the table: address, queries a second, how
// many.
func paceMain(args []string) int {
	to := netip.MustParseAddrPort(args[0])
	rate, _ := strconv.Atoi(args[1])
	n, _ := strconv.Atoi(args[2])
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	}
	if err != nil {
		return fail("pace", err)
	}
	query, err := new(dns.Msg).SetQuestion(tableName+".", dns.TypeA).Pack()
	if err != nil {
		return fail("pace", err)
	}
	runtime.LockOSThread()
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fail("pace", err)
	}
	l := pace(fd, query, time.Second/time.Duration(rate), n)
	if err := json.NewEncoder(os.Stdout).Encode(l); err != nil {
		return fail("pace", err)
	}
	return 0
}

// paceGrace is how late the last answer may be.
const paceGrace = 200 * time.Millisecond

// pace never sleeps: a loop that did would measure how late it wakes.
func pace(fd int, query []byte, interval time.Duration, n int) latency {
	sent, took := make([]time.Time, n), make([]time.Duration, 0, n)
	buf, begin, next := make([]byte, 2048), time.Now(), 0
	end := begin.Add(interval*time.Duration(n) + paceGrace)
	for now := begin; len(took) < n && now.Before(end); now = time.Now() {
		if next < n && !now.Before(begin.Add(interval*time.Duration(next))) {
			binary.BigEndian.PutUint16(query, uint16(next))
			sent[next] = now
			_, _ = unix.Write(fd, query)
			next++
		}
		if size, err := unix.Read(fd, buf); err == nil && size >= 2 {
			// IDs come again after 65,536 queries, long after their answers.
			id := int(binary.BigEndian.Uint16(buf))
			if i := id + (next-1-id)/65536*65536; i >= 0 && i < next {
				took = append(took, time.Since(sent[i]))
			}
		}
	}
	slices.Sort(took)
	l := latency{Sent: next, Lost: n - len(took)}
	if len(took) > 0 {
		l.P50, l.P99 = took[len(took)/2], took[len(took)*99/100]
	}
	return l
}
