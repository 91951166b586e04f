// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// resolver answers every question with the nameserver that the client asked, as the
// datapath tells it: "resolver origin=ADDRESS". It serves a scope's listeners and
// keeps the scope alive.
type resolver struct {
	enrolment *loader.Enrolment
	ns        *testenv.NetNS
	servers   []*dns.Server
	ended     sync.WaitGroup
	stopBeat  context.CancelFunc
	beating   chan struct{} // closed when the heart has stopped

	mu   sync.Mutex
	seen map[string]map[netip.Addr]bool // by answer: the local addresses that led to it

}

// startResolver opens the listeners of a scope in ns, enrols it and serves it.
func startResolver(tb testing.TB, ns *testenv.NetNS, d *loader.Datapath, scope loader.Scope) *resolver {
	tb.Helper()
	return startResolverOn(tb, ns, d, scope, nil)
}

// startResolverOn is startResolver on listeners that are there, and stay; nil opens some.
func startResolverOn(tb testing.TB, ns *testenv.NetNS, d *loader.Datapath, scope loader.Scope, l *loader.Listeners) *resolver {
	tb.Helper()
	r := &resolver{ns: ns}
	r.start(tb, d, scope, l)
	return r
}

func (r *resolver) start(tb testing.TB, d *loader.Datapath, scope loader.Scope, kept *loader.Listeners) {
	tb.Helper()
	r.ns.Do(func() {
		var listeners *loader.Listeners
		var err error
		if kept != nil {
			listeners, err = kept.Seal()
		} else {
			listeners, err = loader.Listen(d.Port())
		}
		if err != nil {
			tb.Fatalf("listen: %v", err)
		}
		if r.enrolment, err = d.Attend(listeners); err != nil {
			tb.Fatalf("attend: %v", err)
		}
	})
	r.enrolment.Expect(scope)
	r.serve(tb)
	r.enrol(tb, scope)
	ctx, cancel := context.WithCancel(context.Background())
	r.stopBeat, r.beating = cancel, make(chan struct{})
	go r.beat(ctx, tb)
	tb.Cleanup(r.close)
}

// enrol makes the namespace a scope, or changes its settings.
func (r *resolver) enrol(tb testing.TB, scope loader.Scope) {
	tb.Helper()
	r.ns.Do(func() {
		if err := r.enrolment.Enrol(scope); err != nil {
			tb.Fatalf("enrol: %v", err)
		}
	})
}

func (r *resolver) beat(ctx context.Context, tb testing.TB) {
	defer close(r.beating)
	tick := time.NewTicker(loader.HeartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.ns.Do(func() {
			if err := r.enrolment.Beat(); err != nil {
				tb.Errorf("beat: %v", err)
			}
		})
	}
}

// stopHeart returns when there are no more beats. Twice is fine.
func (r *resolver) stopHeart() {
	r.stopBeat()
	<-r.beating
}

// hang stops the heart and returns when the datapath must have noticed.
func (r *resolver) hang(tb testing.TB) {
	tb.Helper()
	r.stopHeart()
	awaitHung(tb)
}

// awaitHung returns when the datapath must have noticed that no heart beats any more.
func awaitHung(tb testing.TB) {
	tb.Helper()
	const limit = 2 * time.Second
	since := time.Now()
	testenv.Eventually(tb, 2*limit, func() error {
		if left := limit - time.Since(since); left > -10*time.Millisecond {
			return fmt.Errorf("the heartbeat is good for another %v", left)
		}
		return nil
	})
}

// close ends the resolver and closes every one of its sockets. Twice is fine.
func (r *resolver) close() {
	r.stopHeart()
	for _, s := range r.servers {
		_ = s.Shutdown() // it says when it was not running, which is no news here
	}
	r.ended.Wait()
	r.servers = nil
	r.enrolment.Close()
}

func (r *resolver) serve(tb testing.TB) {
	tb.Helper()
	udp, err := r.enrolment.Listeners.UDP()
	if err != nil {
		tb.Fatal(err)
	}
	tcp, err := r.enrolment.Listeners.TCP()
	if err != nil {
		tb.Fatal(err)
	}
	for _, c := range udp {
		conn, err := newTagConn(c)
		if err != nil {
			tb.Fatal(err)
		}
		r.run(tb, &dns.Server{PacketConn: conn})
	}
	for _, l := range tcp {
		r.run(tb, &dns.Server{Listener: l})
	}
}

func (r *resolver) run(tb testing.TB, s *dns.Server) {
	s.Handler = r
	r.servers = append(r.servers, s)
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	r.ended.Add(1)
	go func() {
		defer r.ended.Done()
		if err := s.ActivateAndServe(); err != nil && !errors.Is(err, net.ErrClosed) {
			tb.Errorf("serve: %v", err)
		}
	}()
	<-started
}

// ServeDNS answers with the nameserver that the address stands for at which the query
// arrived.
func (r *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	local := localOf(w)
	text := "resolver without origin for " + local.String()
	if origin, ok := r.enrolment.Origin(local); ok {
		text = "resolver origin=" + origin.String()
	}
	r.note(text, local)
	answerText(w, q, text)
}

func (r *resolver) note(text string, local netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = make(map[string]map[netip.Addr]bool)
	}
	if r.seen[text] == nil {
		r.seen[text] = make(map[netip.Addr]bool)
	}
	r.seen[text][local] = true
}

// answerText answers with one TXT record. A client that is gone is its own affair.
func answerText(w dns.ResponseWriter, q *dns.Msg, text string) {
	m := new(dns.Msg).SetReply(q)
	m.Answer = []dns.RR{&dns.TXT{
		Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET},
		Txt: []string{text},
	}}
	_ = w.WriteMsg(m)
}

func localOf(w dns.ResponseWriter) netip.Addr {
	if asked, ok := w.RemoteAddr().(*tagAddr); ok {
		return asked.local
	}
	return w.LocalAddr().(*net.TCPAddr).AddrPort().Addr()
}

// tagAddr is the sender of a datagram together with the local address to which it came.
type tagAddr struct {
	net.UDPAddr
	local netip.Addr
}

// tagConn is a UDP socket that answers each datagram from the address to which it came.
type tagConn struct{ *net.UDPConn }

func newTagConn(c *net.UDPConn) (*tagConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	is4 := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is4()
	var set error
	err = raw.Control(func(fd uintptr) {
		if is4 {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
	})
	return &tagConn{c}, errors.Join(err, set)
}

// ReadFrom hides that of UDPConn. Its address is a *tagAddr.
func (c *tagConn) ReadFrom(buf []byte) (int, net.Addr, error) {
	oob := make([]byte, 128)
	n, nOOB, _, from, err := c.ReadMsgUDP(buf, oob)
	if err != nil {
		return 0, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:nOOB])
	if err != nil || len(messages) != 1 {
		return 0, nil, fmt.Errorf("read packet info: %d messages: %w", len(messages), err)
	}
	asked := &tagAddr{UDPAddr: *from}
	data := messages[0].Data
	if messages[0].Header.Type == unix.IP_PKTINFO { // ifindex, spec_dst, addr
		asked.local = netip.AddrFrom4([4]byte(data[8:12]))
	} else {
		asked.local = netip.AddrFrom16([16]byte(data[:16]))
	}
	return n, asked, nil
}

// WriteTo answers a *tagAddr.
func (c *tagConn) WriteTo(buf []byte, to net.Addr) (int, error) {
	asked := to.(*tagAddr)
	var oob []byte
	if asked.local.Is4() {
		oob = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: asked.local.As4()})
	} else {
		oob = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: asked.local.As16()})
	}
	n, _, err := c.WriteMsgUDP(buf, oob, &asked.UDPAddr)
	return n, err
}
