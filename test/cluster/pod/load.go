// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// patience is how long one query waits. No query is repeated: a lost one counts, and
	// one that a busy machine has yet to answer is not lost.
	patience = 10 * time.Second
	// countsAddr is where the counts are, over HTTP.
	countsAddr = ":8053"
)

// counts is how often each name had each outcome: an address, "NXDOMAIN" and other
// rcodes, "timeout", "refused" (by a closed port), or an error's text.
type counts struct {
	mu       sync.Mutex
	Outcomes map[string]map[string]int
	// Lost is when the queries were sent, or a little before, that had no answer.
	Lost []time.Time
	// Settled is before which no query was sent that still waits.
	Settled time.Time

	last    int
	waiting map[int]time.Time // since when, by number
}

// load asks the first nameserver of resolv.conf for each name, rate times a second,
// every query from a socket of its own, until ctx ends. It serves the counts.
func load(ctx context.Context, rate int, connected bool, names []string) error {
	server, err := firstNameserver()
	if err != nil {
		return err
	}
	c := &counts{Outcomes: map[string]map[string]int{}, Lost: []time.Time{}, waiting: map[int]time.Time{}}
	for _, name := range names {
		c.Outcomes[name] = map[string]int{}
		go every(ctx, time.Second/time.Duration(rate), func() {
			number := c.begin()
			c.end(number, name, ask(server, connected, name))
		})
	}
	web := &http.Server{Addr: countsAddr, Handler: c}
	go func() { <-ctx.Done(); _ = web.Close() }()
	if err := web.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve counts: %w", err)
	}
	return nil
}

func every(ctx context.Context, period time.Duration, f func()) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			go f()
		}
	}
}

// begin notes a query that is about to be sent.
func (c *counts) begin() (number int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	c.waiting[c.last] = time.Now()
	return c.last
}

// end counts its outcome.
func (c *counts) end(number int, name, outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Outcomes[name][outcome]++
	if outcome == timedOut || outcome == refused {
		c.Lost = append(c.Lost, c.waiting[number])
	}
	delete(c.waiting, number)
}

func (c *counts) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Settled = time.Now()
	for _, since := range c.waiting {
		if since.Before(c.Settled) {
			c.Settled = since
		}
	}
	_ = json.NewEncoder(w).Encode(c) // who asked has gone
}

func firstNameserver() (netip.AddrPort, error) {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return netip.AddrPort{}, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "nameserver" {
			addr, err := netip.ParseAddr(fields[1])
			return netip.AddrPortFrom(addr, 53), err
		}
	}
	return netip.AddrPort{}, errors.New("find a nameserver in /etc/resolv.conf: there is none")
}

// The outcomes of a query that is lost.
const (
	timedOut = "timeout"
	refused  = "refused"
)

// ask sends one query and says how it ended.
func ask(server netip.AddrPort, connected bool, name string) string {
	reply, err := exchange(server, connected, new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA))
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return timedOut
	case err != nil && strings.Contains(err.Error(), "connection refused"):
		return refused
	case err != nil:
		return err.Error()
	case reply.Rcode != dns.RcodeSuccess:
		return dns.RcodeToString[reply.Rcode]
	}
	for _, rr := range reply.Answer {
		if a, ok := rr.(*dns.A); ok {
			return a.A.String()
		}
	}
	return "no data"
}

func exchange(server netip.AddrPort, connected bool, query *dns.Msg) (*dns.Msg, error) {
	wire, err := query.Pack()
	if err != nil {
		return nil, err
	}
	send, receive, done, err := open(server, connected)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := send(wire); err != nil {
		return nil, err
	}
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, from, err := receive(buf)
		if err != nil {
			return nil, err
		}
		if from.IsValid() && from != server {
			return nil, fmt.Errorf("answer from %s", from)
		}
		reply := new(dns.Msg)
		if err := reply.Unpack(buf[:n]); err != nil {
			return nil, err
		}
		if reply.Id == query.Id {
			return reply, nil
		}
	}
}

// open makes a socket of one of two shapes. A connected one is not told senders.
func open(server netip.AddrPort, connected bool) (send func([]byte) error, receive func([]byte) (int, netip.AddrPort, error), done func() error, err error) {
	var conn *net.UDPConn
	if connected {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	} else {
		conn, err = net.ListenUDP("udp4", nil)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, nil, nil, errors.Join(err, conn.Close())
	}
	if connected {
		send = func(b []byte) error { _, err := conn.Write(b); return err }
		receive = func(b []byte) (int, netip.AddrPort, error) { n, err := conn.Read(b); return n, netip.AddrPort{}, err }
		return send, receive, conn.Close, nil
	}
	send = func(b []byte) error { _, err := conn.WriteToUDPAddrPort(b, server); return err }
	return send, conn.ReadFromUDPAddrPort, conn.Close, nil
}
