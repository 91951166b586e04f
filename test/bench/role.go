// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// roleCaller makes calls when told to.
const roleCaller = "bench-caller"

func roles() testenv.Roles { return testenv.Roles{roleCaller: callerMain} }

// call is one thing to measure.
type call string

const (
	connectDNS   call = "connect"       // of a new socket, with socket and close
	connectOther call = "connect-other" // of one socket, to another port
	sendDNS      call = "sendto"
	sendOther    call = "sendto-other"
	queryDNS     call = "query" // a whole query with a socket of its own
)

const (
	dnsPort   = 53
	otherPort = 9
	// answerTimeout is long: an answer that is late is slow, not wrong.
	answerTimeout = 5 * time.Second
)

// callerMain is the role: a server, the file of a packed question, and the answer that it must
// have. It reads lines "CALL N", makes the calls, and prints the nanoseconds of all.
func callerMain(args []string) int {
	question, err := os.ReadFile(args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "caller:", err)
		return 1
	}
	c := &caller{question: question, want: netip.MustParseAddr(args[2])}
	server := netip.MustParseAddrPort(args[0])
	c.dns = &unix.SockaddrInet4{Addr: server.Addr().As4(), Port: int(server.Port())}
	c.other = &unix.SockaddrInet4{Addr: server.Addr().As4(), Port: otherPort}
	for _, fd := range []*int{&c.fd, &c.connected} {
		if *fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			fmt.Fprintln(os.Stderr, "caller:", err)
			return 1
		}
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var what call
		var n int
		if _, err := fmt.Sscan(in.Text(), &what, &n); err != nil {
			fmt.Fprintf(os.Stderr, "caller: %q: %v\n", in.Text(), err)
			return 2
		}
		start := time.Now()
		for range n {
			if err := c.make(what); err != nil {
				fmt.Fprintf(os.Stderr, "caller: %s: %v\n", what, err)
				return 1
			}
		}
		fmt.Println(time.Since(start).Nanoseconds())
	}
	return 0
}

type caller struct {
	dns, other *unix.SockaddrInet4
	question   []byte
	want       netip.Addr
	fd         int // for sendto
	connected  int
}

func (c *caller) make(what call) error {
	switch what {
	case connectDNS:
		return connect(c.dns)
	case connectOther:
		return unix.Connect(c.connected, c.other)
	case sendDNS:
		return unix.Sendto(c.fd, c.question, 0, c.dns)
	case sendOther:
		return unix.Sendto(c.fd, c.question, 0, c.other)
	case queryDNS:
		return c.query()
	}
	return fmt.Errorf("unknown call")
}

// connect is the beginning and the end of a query of libc.
func connect(to *unix.SockaddrInet4) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, to)
}

// query asks once. Blocking calls, without Go's poller: the client shall cost little.
func (c *caller) query() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	if err := unix.Connect(fd, c.dns); err != nil {
		return err
	}
	id := binary.BigEndian.Uint16(c.question) + 1
	binary.BigEndian.PutUint16(c.question, id)
	if _, err := unix.Write(fd, c.question); err != nil {
		return err
	}
	var buf [512]byte
	n, err := unix.Read(fd, buf[:])
	for err == unix.EINTR { // by Go's own scheduler
		n, err = unix.Read(fd, buf[:])
	}
	if err != nil {
		return err
	}
	// The address is the last thing in an answer of one A record without OPT.
	if n < 4 || binary.BigEndian.Uint16(buf[:]) != id || netip.AddrFrom4([4]byte(buf[n-4:n])) != c.want {
		return fmt.Errorf("wrong answer: %x", buf[:n])
	}
	return nil
}
