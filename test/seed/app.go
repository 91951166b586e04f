// SPDX-License-Identifier: Apache-2.0

package seed

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const (
	// answerTimeout is what the application waits for one answer; on an idle link
	// an answer takes a tenth of a millisecond.
	answerTimeout = time.Second
	// storyTimeout bounds the whole: past it every question counts as lost.
	storyTimeout = 20 * time.Second
)

// Outcomes of a question.
const (
	right  = "right"  // the address it should be, from the server that was asked
	wrong  = "wrong"  // any other answer
	lost   = "lost"   // none
	looped = "looped" // the proxy asked itself
)

// step is one question of the application.
type step struct {
	Port      uint16 // its source port
	Name      string
	Want      netip.Addr
	Connected bool // connect and send, or sendto and recvfrom
	AnyPort   bool // another will do if somebody has that one
}

// appMain is the role: it asks the nameserver of its argument what it reads from
// standard input, one after the other, and writes the outcomes.
func appMain(args []string) int {
	server, err := netip.ParseAddrPort(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, "application:", err)
		return 2
	}
	var steps []step
	if err := json.NewDecoder(os.Stdin).Decode(&steps); err != nil {
		fmt.Fprintln(os.Stderr, "application: read steps:", err)
		return 2
	}
	end := time.Now().Add(storyTimeout)
	outcomes := make([]string, 0, len(steps))
	for _, s := range steps {
		deadline := time.Now().Add(answerTimeout)
		if deadline.After(end) {
			deadline = end
		}
		outcome, err := s.ask(server, deadline)
		if err != nil {
			fmt.Fprintf(os.Stderr, "application: ask for %s from port %d: %v\n", s.Name, s.Port, err)
			return 1
		}
		outcomes = append(outcomes, outcome)
	}
	if err := json.NewEncoder(os.Stdout).Encode(outcomes); err != nil {
		fmt.Fprintln(os.Stderr, "application: write outcomes:", err)
		return 1
	}
	return 0
}

// ask puts one question. An error means that it could not be put at all.
func (s step) ask(server netip.AddrPort, deadline time.Time) (string, error) {
	conn, err := s.open(server)
	for errors.Is(err, unix.EADDRINUSE) && time.Now().Before(deadline) {
		if s.AnyPort {
			s.Port = 0
		}
		conn, err = s.open(server) // a port may be taken for a moment
	}
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	question := new(dns.Msg).SetQuestion(s.Name, dns.TypeA)
	question.SetEdns0(dns.DefaultMsgSize, false)
	packet, err := question.Pack()
	if err != nil {
		return "", err
	}
	if s.Connected {
		_, err = conn.Write(packet)
	} else {
		_, err = conn.WriteToUDPAddrPort(packet, server)
	}
	if err != nil {
		return lost, nil
	}
	buf := make([]byte, dns.MaxMsgSize)
	n, from, err := conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		return lost, nil
	}
	return s.judge(question, server, from, buf[:n]), nil
}

func (s step) open(server netip.AddrPort) (*net.UDPConn, error) {
	local := &net.UDPAddr{Port: int(s.Port)}
	if s.Connected {
		return net.DialUDP("udp4", local, net.UDPAddrFromAddrPort(server))
	}
	return net.ListenUDP("udp4", local)
}

// judge says what the answer is worth.
func (s step) judge(question *dns.Msg, server, from netip.AddrPort, packet []byte) string {
	m := new(dns.Msg)
	if err := m.Unpack(packet); err != nil || m.Id != question.Id || from != server {
		return wrong
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if ede, ok := o.(*dns.EDNS0_EDE); ok && ede.ExtraText == loopText {
				return looped
			}
		}
	}
	if len(m.Answer) != 1 {
		return wrong
	}
	a, ok := m.Answer[0].(*dns.A)
	if !ok || !a.A.Equal(s.Want.AsSlice()) {
		return wrong
	}
	return right
}
