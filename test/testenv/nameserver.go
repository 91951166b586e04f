// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// shutdownTimeout bounds the end of a nameserver, which waits for answers that
// its handler is still making.
const shutdownTimeout = 5 * time.Second

// Query is a question as a nameserver received it.
type Query struct {
	Source netip.AddrPort // who asked
	Proto  string         // "udp" or "tcp"
	Name   string         // as it was written, with the final dot
	Type   uint16
}

// Server is a nameserver that a test watches.
type Server struct {
	// Addr is where it listens, over UDP and TCP.
	Addr netip.AddrPort

	mu      sync.Mutex
	queries []Query
}

// Nameserver runs a nameserver in ns until the test ends. It listens on addr
// over UDP and TCP (port 0 picks one), records each query before it is answered,
// and answers with handler; nil means Answers(addr).
func Nameserver(tb testing.TB, ns *NetNS, addr netip.AddrPort, handler dns.Handler) *Server {
	tb.Helper()
	if handler == nil {
		handler = Answers(addr.Addr())
	}
	var udp net.PacketConn
	var tcp net.Listener
	ns.Do(func() { udp, tcp = listenBoth(tb, addr) })

	server := &Server{Addr: netip.MustParseAddrPort(udp.LocalAddr().String())}
	recorded := server.record(handler)
	serve(tb, &dns.Server{PacketConn: udp, Handler: recorded, UDPSize: dns.MaxMsgSize})
	serve(tb, &dns.Server{Listener: tcp, Handler: recorded})
	return server
}

// Queries returns what was asked so far, in order.
func (s *Server) Queries() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.queries)
}

// Count tells how often name was asked for, whatever the type and the case. A
// final dot makes no difference.
func (s *Server) Count(name string) int {
	n := 0
	for _, q := range s.Queries() {
		if strings.EqualFold(dns.Fqdn(name), q.Name) {
			n++
		}
	}
	return n
}

// Reset forgets what was asked so far.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries = nil
}

// record notes each question before next answers it: whoever has the answer
// finds the query in Queries.
func (s *Server) record(next dns.Handler) dns.Handler {
	return dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		if len(r.Question) == 1 {
			s.mu.Lock()
			s.queries = append(s.queries, Query{
				Source: netip.MustParseAddrPort(w.RemoteAddr().String()),
				Proto:  w.RemoteAddr().Network(),
				Name:   r.Question[0].Name,
				Type:   r.Question[0].Qtype,
			})
			s.mu.Unlock()
		}
		next.ServeDNS(w, r)
	})
}

// listenBoth opens UDP and TCP on the same port.
func listenBoth(tb testing.TB, addr netip.AddrPort) (net.PacketConn, net.Listener) {
	tb.Helper()
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		tb.Fatalf("listen for a nameserver: %v", err)
	}
	port := udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr.Addr(), port)))
	if err != nil {
		udp.Close()
		tb.Fatalf("listen for a nameserver: %v", err)
	}
	return udp, tcp
}

// serve runs server until the test ends; it returns when the server answers.
func serve(tb testing.TB, server *dns.Server) {
	tb.Helper()
	started, ended := make(chan struct{}), make(chan error, 1)
	server.NotifyStartedFunc = func() { close(started) }
	go func() { ended <- server.ActivateAndServe() }()
	select {
	case <-started:
	case err := <-ended:
		tb.Fatalf("serve: %v", err)
	}
	tb.Cleanup(func() {
		// Not tb.Context: that one has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		if err := server.ShutdownContext(ctx); err != nil {
			tb.Errorf("shut nameserver down: %v", err)
		}
		if err := <-ended; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
}
