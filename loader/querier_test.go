// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// waitMost bounds every wait for something that takes milliseconds.
const waitMost = 10 * time.Second

func errUnexpected(format string, args ...any) error { return fmt.Errorf(format, args...) }

// shape is how a querier uses its socket.
type shape struct {
	Server    netip.AddrPort
	Connected bool
	Mapped    bool           // an AF_INET6 socket for an IPv4 server
	Bind      netip.AddrPort // valid: bind to it first
	Busy      bool           // asks again at once, not after pace
}

// pace is between two questions of a querier that only has to see who answers. Many of them
// that ask without a pause are all that an emulated processor has time for.
const pace = 5 * time.Millisecond

func (s shape) String() string {
	name := "unconnected"
	if s.Connected {
		name = "connected"
	}
	if s.Mapped {
		name += "/mapped"
	}
	if s.Bind.IsValid() {
		name += "/bound"
	}
	return fmt.Sprintf("%s/%s", name, s.Server.Addr())
}

// report is what a querier saw since its last report.
type report struct {
	Answers map[string]int // by their address
	Sources map[string]int // who the answers were from
	Errors  []string       // system calls that failed, and answers that did not come
	Local   netip.AddrPort // getsockname
	Peer    netip.AddrPort // getpeername, of a connected socket
	Socket  uint64         // inode
}

// runQuerier asks one question after the other, on one socket, until standard input
// ends, and reports for each line of it.
func runQuerier(args []string) int {
	var s shape
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return 2
	}
	q, err := openQuerier(s)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go q.loop()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := json.NewEncoder(os.Stdout).Encode(q.report()); err != nil {
			return 1
		}
	}
	return 0
}

type querier struct {
	shape
	fd     int
	server unix.Sockaddr

	mu    sync.Mutex
	asked int
	now   report
}

func openQuerier(s shape) (*querier, error) {
	q := &querier{shape: s, server: sockaddr(s.Server)}
	family := unix.AF_INET
	if s.Mapped || s.Server.Addr().Is6() {
		family = unix.AF_INET6
		q.server = &unix.SockaddrInet6{Port: int(s.Server.Port()), Addr: s.Server.Addr().As16()}
	}
	var err error
	if q.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	// A lost answer must be told from a slow one, and soon enough for the test.
	if err := unix.SetsockoptTimeval(q.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return nil, err
	}
	if s.Bind.IsValid() {
		if err := unix.Bind(q.fd, sockaddr(s.Bind)); err != nil {
			return nil, fmt.Errorf("bind: %w", err)
		}
	}
	if s.Connected {
		if err := unix.Connect(q.fd, q.server); err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
	}
	q.reset()
	return q, nil
}

func (q *querier) reset() { q.now = report{Answers: map[string]int{}, Sources: map[string]int{}} }

// loop is bounded: a test that hangs must not leave a process that asks for ever.
func (q *querier) loop() {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for start := time.Now(); time.Since(start) < 30*time.Second; {
		answer, source, err := q.ask()
		q.mu.Lock()
		if err != nil {
			if len(q.now.Errors) < 5 {
				q.now.Errors = append(q.now.Errors, err.Error())
			}
		} else {
			q.now.Answers[answer]++
			q.now.Sources[source.String()]++
		}
		q.mu.Unlock()
		if !q.Busy {
			<-tick.C
		}
	}
}

func (q *querier) ask() (answer string, source netip.AddrPort, err error) {
	q.asked++
	m := new(dns.Msg).SetQuestion(fmt.Sprintf("q%d.example.org.", q.asked), dns.TypeA)
	wire, err := m.Pack()
	if err != nil {
		return "", source, err
	}
	if q.Connected {
		_, err = unix.Write(q.fd, wire)
	} else {
		err = unix.Sendto(q.fd, wire, 0, q.server)
	}
	if err != nil {
		return "", source, fmt.Errorf("send: %w", err)
	}
	buffer := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(q.fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return "", source, fmt.Errorf("receive: %w", err)
		}
		var reply dns.Msg
		if err := reply.Unpack(buffer[:n]); err != nil || reply.Id != m.Id {
			continue // of a question that was given up
		}
		if len(reply.Answer) != 1 {
			return "", source, fmt.Errorf("receive: %d records", len(reply.Answer))
		}
		return reply.Answer[0].(*dns.A).A.String(), addrPort(from), nil
	}
}

func (q *querier) report() report {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.now
	q.reset()
	if local, err := unix.Getsockname(q.fd); err == nil {
		r.Local = addrPort(local)
	}
	if peer, err := unix.Getpeername(q.fd); err == nil {
		r.Peer = addrPort(peer)
	}
	var st unix.Stat_t
	if unix.Fstat(q.fd, &st) == nil {
		r.Socket = st.Ino
	}
	return r
}

// at is a nameserver's address.
func at(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 53) }
