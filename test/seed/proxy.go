// SPDX-License-Identifier: Apache-2.0

package seed

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// proxyReady is what the proxy prints when it listens.
const proxyReady = "ready\n"

// loopText marks, as an extended error, an answer to the proxy's own question.
const loopText = "the proxy asked itself"

// forwardTimeout is below the application's, which so learns what went wrong.
const forwardTimeout = 500 * time.Millisecond

// proxy answers TableName and forwards the rest.
type proxy struct {
	upstream netip.AddrPort

	mu    sync.Mutex
	ports map[uint16]bool // source ports with a question under way
}

// proxyMain is the role: addresses to listen on and to forward to.
func proxyMain(args []string) int {
	listen, errListen := netip.ParseAddrPort(args[0])
	upstream, errUpstream := netip.ParseAddrPort(args[1])
	if errListen != nil || errUpstream != nil {
		fmt.Fprintln(os.Stderr, "proxy: parse addresses:", errListen, errUpstream)
		return 2
	}
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(listen))
	if err != nil {
		fmt.Fprintln(os.Stderr, "proxy:", err)
		return 1
	}
	p := &proxy{upstream: upstream, ports: map[uint16]bool{}}
	server := &dns.Server{
		PacketConn:        conn,
		Handler:           p,
		NotifyStartedFunc: func() { fmt.Print(proxyReady) },
	}
	// It serves until the story kills it.
	if err := server.ActivateAndServe(); err != nil {
		fmt.Fprintln(os.Stderr, "proxy:", err)
	}
	return 1
}

// ServeDNS recognises its own question by the source port: nobody else can have
// it while the socket is open. A real sidecar goes round until it gives up.
func (p *proxy) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	from := netip.MustParseAddrPort(w.RemoteAddr().String())
	if p.forwardsFrom(from.Port()) {
		_ = w.WriteMsg(loopReply(r))
		return
	}
	if r.Question[0].Name == TableName {
		m := new(dns.Msg).SetReply(r)
		m.Answer = []dns.RR{addressRecord(TableName, tableAddr)}
		_ = w.WriteMsg(m)
		return
	}
	m, err := p.forward(r)
	if err != nil {
		m = new(dns.Msg).SetRcode(r, dns.RcodeServerFailure)
	}
	_ = w.WriteMsg(m)
}

// forward asks the nameserver from the port that the name demands. The port is
// free again before the answer leaves.
func (p *proxy) forward(r *dns.Msg) (*dns.Msg, error) {
	port := demandedPort(r.Question[0].Name)
	conn, err := net.DialUDP("udp4", &net.UDPAddr{Port: int(port)}, net.UDPAddrFromAddrPort(p.upstream))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	port = conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	p.mark(port, true)
	defer p.mark(port, false)

	client := &dns.Client{Timeout: forwardTimeout}
	m, _, err := client.ExchangeWithConn(r, &dns.Conn{Conn: conn})
	return m, err
}

func (p *proxy) forwardsFrom(port uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ports[port]
}

func (p *proxy) mark(port uint16, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.ports[port] = true
		return
	}
	delete(p.ports, port)
}

// demandedPort reads the N of "pN.shop.example.org.", or returns 0, any port.
func demandedPort(name string) uint16 {
	label, _, _ := strings.Cut(name, ".")
	number, ok := strings.CutPrefix(label, "p")
	if !ok {
		return 0
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

func loopReply(r *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetRcode(r, dns.RcodeServerFailure)
	m.SetEdns0(dns.DefaultMsgSize, false)
	opt := m.IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeOther, ExtraText: loopText})
	return m
}
