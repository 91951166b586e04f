// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// Addresses of the scope in these tests.
var (
	tag4     = netip.MustParseAddr("127.53.0.7")
	tag6     = netip.MustParseAddr("fd64:6e73:7465:3acd::7")
	unknown6 = netip.MustParseAddr("fd64:6e73:7465:3acd::8")
	podIP    = netip.MustParseAddr("192.0.2.9")
)

// scope is a namespace with listeners as the loader opens them: one on 127.0.0.1, one
// on the wildcard address and bound to lo, one for IPv6 where the tags are a local
// route (AnyIP). An address that is no loopback address is there too.
func scope(t *testing.T) (ns *testenv.NetNS, l Listeners, port uint16) {
	t.Helper()
	ns = testenv.NewNetNS(t)
	ns.Do(func() {
		addLocal(t, podIP, 32)
		addTagRoute(t)
		port = 15053
		for _, at := range []struct{ network, host, device string }{
			{"4", "127.0.0.1", ""}, {"4", "0.0.0.0", "lo"}, {"6", "::", "lo"},
		} {
			lc := net.ListenConfig{Control: control(at.device)}
			addr := net.JoinHostPort(at.host, "15053")
			udp, err := lc.ListenPacket(context.Background(), "udp"+at.network, addr)
			if err != nil {
				t.Fatal(err)
			}
			tcp, err := lc.Listen(context.Background(), "tcp"+at.network, addr)
			if err != nil {
				t.Fatal(err)
			}
			l.UDP = append(l.UDP, udp.(*net.UDPConn))
			l.TCP = append(l.TCP, tcp.(*net.TCPListener))
		}
	})
	return ns, l, port
}

func control(device string) func(string, string, syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			if device != "" && err == nil {
				err = unix.BindToDevice(int(fd), device)
			}
			if network[3] == '6' && err == nil {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
			}
		})
		if ctlErr != nil {
			return ctlErr
		}
		return err
	}
}

func addLocal(t *testing.T, addr netip.Addr, bits int) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	n := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: n}); err != nil {
		t.Fatal(err)
	}
}

func addTagRoute(t *testing.T) {
	t.Helper()
	dst := &net.IPNet{IP: tag6.AsSlice(), Mask: net.CIDRMask(64, 128)}
	dst.IP = dst.IP.Mask(dst.Mask)
	if err := netlink.RouteAdd(&netlink.Route{Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, LinkIndex: 1, Dst: dst}); err != nil {
		t.Fatal(err)
	}
}

// At tags of both families the answer leaves from the tag; at an address that is
// neither loopback nor a tag nobody is served: never an open resolver.
func TestScope(t *testing.T) {
	ns, l, port := scope(t)
	s, err := New(Config{Origin: func(local netip.Addr) (netip.Addr, bool) {
		return netip.MustParseAddr("192.0.2.53"), local == tag4 || local == tag6
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.SetTable(table(t, "names: {t.example.org: [192.0.2.1]}"))
	serve(t, s, l)
	for _, tc := range []struct {
		local  netip.Addr
		served bool
	}{
		{netip.MustParseAddr("127.0.0.1"), true},
		{tag4, true},
		{netip.MustParseAddr("127.53.9.9"), true}, // loopback: the table answers, nothing is forwarded
		{netip.IPv6Loopback(), true},
		{tag6, true},
		{unknown6, false},
		{podIP, false},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(network+" "+tc.local.String(), func(t *testing.T) {
				var conn net.Conn
				ns.Do(func() { conn = connect(t, network, netip.AddrPortFrom(tc.local, port)) })
				if tc.served {
					send(t, conn, pack(t, query("t.example.org", dns.TypeA)))
					if got := unpack(t, receive(t, conn)); len(got.Answer) != 1 {
						t.Errorf("got %v", got)
					}
					return
				}
				wantSilence(t, conn, func() {
					ns.Do(func() {
						other := connect(t, "udp", netip.AddrPortFrom(netip.IPv6Loopback(), port))
						if tc.local.Is4() {
							other = connect(t, "udp", netip.AddrPortFrom(tag4, port))
						}
						send(t, other, pack(t, query("t.example.org", dns.TypeA)))
						receive(t, other)
					})
				})
			})
		}
	}
}

// wantSilence asks on conn, and after something else was answered on the same
// listener looks whether an answer has come: datagrams are read in order.
func wantSilence(t *testing.T, conn net.Conn, asked func()) {
	t.Helper()
	wire := pack(t, query("t.example.org", dns.TypeA))
	if isStream(conn) {
		_ = writeFrame(conn, wire) // the connection may be closed already
		if w, err := readFrame(conn); err == nil {
			t.Errorf("answered: %x", w)
		}
		return
	}
	send(t, conn, wire)
	asked()
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := conn.Read(make([]byte, 512))
	if netErr, ok := err.(net.Error); !ok || !netErr.Timeout() {
		t.Errorf("answered: %d octets, %v", n, err)
	}
}

// A burst of 2,000 queries loses none: the receive buffer holds them.
func TestBurst(t *testing.T) {
	ns, l, port := scope(t)
	serve(t, warm(t), l)
	var conn net.Conn
	ns.Do(func() { conn = connect(t, "udp", netip.AddrPortFrom(tag4, port)) })
	// Table and cache. The first answers say that the socket is set up.
	queries := []*dns.Msg{query("web.example.org", dns.TypeA), query("a.example.net", dns.TypeA)}
	for _, q := range queries {
		send(t, conn, pack(t, q))
		receive(t, conn)
	}
	forceReadBuffer(t, conn.(*net.UDPConn))
	const n = 2000
	missing := make(map[uint16]bool)
	for id := range uint16(n) {
		q := queries[id%2]
		q.Id = id
		missing[id] = true
		send(t, conn, pack(t, q))
	}
	for range n {
		got := unpack(t, receive(t, conn))
		if delete(missing, got.Id); len(got.Answer) == 0 {
			t.Errorf("got %v", got)
		}
	}
	if len(missing) > 0 {
		t.Errorf("%d queries without an answer", len(missing))
	}
}

// forceReadBuffer makes the test's own socket no cause of losses.
func forceReadBuffer(t *testing.T, conn *net.UDPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		optErr = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer))
	}); err != nil || optErr != nil {
		t.Fatal(err, optErr)
	}
}
