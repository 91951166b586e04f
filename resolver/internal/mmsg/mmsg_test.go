// SPDX-License-Identifier: Apache-2.0

package mmsg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

const patience = 10 * time.Second

// open makes a socket on a host address and returns where to send to.
func open(tb testing.TB, network, host string) (*Socket, netip.AddrPort) {
	tb.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0) })
	}}
	pc, err := lc.ListenPacket(context.Background(), network, net.JoinHostPort(host, "0"))
	if err != nil {
		tb.Fatal(err)
	}
	conn := pc.(*net.UDPConn)
	tb.Cleanup(func() { conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	s, err := New(conn, func(err error) { tb.Errorf("lost: %v", err) })
	if err != nil {
		tb.Fatal(err)
	}
	return s, conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func dial(tb testing.TB, to netip.AddrPort) *net.UDPConn {
	tb.Helper()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func send(tb testing.TB, conn *net.UDPConn, wire ...[]byte) {
	tb.Helper()
	for _, w := range wire {
		if _, err := conn.Write(w); err != nil {
			tb.Fatal(err)
		}
	}
}

func receive(tb testing.TB, conn *net.UDPConn) []byte {
	tb.Helper()
	buf := make([]byte, maxDatagram)
	n, err := conn.Read(buf)
	if err != nil {
		tb.Fatal(err)
	}
	return buf[:n]
}

// read returns a batch that must have n datagrams: over loopback one has arrived when
// its send returns.
func read(tb testing.TB, s *Socket, n int) *Batch {
	tb.Helper()
	b, err := s.Read()
	if err != nil {
		tb.Fatal(err)
	}
	if b.Len() != n {
		tb.Fatalf("read %d datagrams, want %d", b.Len(), n)
	}
	return b
}

// Each datagram has its local address and its client, whatever the socket is bound to,
// and the reply leaves from the address that was asked: a connected client hears no
// other.
func TestRoundTrip(t *testing.T) {
	for _, tc := range []struct {
		network, host string
		asked         []string
	}{
		{"udp4", "127.0.0.1", []string{"127.0.0.1"}},
		{"udp4", "0.0.0.0", []string{"127.0.0.1", "127.53.0.7", "127.255.255.254"}},
		{"udp6", "::1", []string{"::1"}},
		{"udp", "::", []string{"::1", "127.0.0.1", "127.53.0.7"}},
	} {
		for _, asked := range tc.asked {
			t.Run(tc.network+" "+tc.host+" at "+asked, func(t *testing.T) {
				s, at := open(t, tc.network, tc.host)
				local := netip.MustParseAddr(asked)
				conn := dial(t, netip.AddrPortFrom(local, at.Port()))
				send(t, conn, []byte("one"), []byte("two"))
				b := read(t, s, 2)
				var out Outbox
				for i := range b.Len() {
					if got := b.Local(i); got != local {
						t.Errorf("local address %s", got)
					}
					client := b.Client(i)
					if got, want := netip.AddrPortFrom(client.Addr().Unmap(), client.Port()), conn.LocalAddr().(*net.UDPAddr).AddrPort(); got != want {
						t.Errorf("client %s, want %s", got, want)
					}
					out.Reply(s, append(append(out.Buffer(), "##re: "...), b.Datagram(i)...), 2, local, b.From(i))
				}
				out.Flush()
				if err := s.WriteTo([]byte("late"), b.Local(0), b.Client(0)); err != nil {
					t.Error(err)
				}
				for _, want := range []string{"re: one", "re: two", "late"} {
					if got := string(receive(t, conn)); got != want {
						t.Errorf("got %q, want %q", got, want)
					}
				}
			})
		}
	}
}

// More datagrams than one call moves come in several, in order, and the largest and the
// smallest come whole.
func TestBatches(t *testing.T) {
	s, at := open(t, "udp4", "127.0.0.1")
	conn := dial(t, at)
	const n = 2*Size + 3
	for i := range n {
		send(t, conn, fmt.Append(nil, i))
	}
	for i := 0; i < n; {
		b := read(t, s, min(Size, n-i))
		for j := range b.Len() {
			if got := string(b.Datagram(j)); got != fmt.Sprint(i) {
				t.Fatalf("datagram %d is %q", i, got)
			}
			i++
		}
	}
	for _, size := range []int{65507, 0, 1} {
		want := bytes.Repeat([]byte{7}, size)
		send(t, conn, want)
		if got := read(t, s, 1).Datagram(0); !bytes.Equal(got, want) {
			t.Errorf("%d octets of %d", len(got), size)
		}
	}
}

// A reply that the kernel refuses takes no other with it, wherever it stands.
func TestPartialSend(t *testing.T) {
	for bad := range 3 {
		s, at := open(t, "udp4", "0.0.0.0")
		var lost []error
		s.lost = func(err error) { lost = append(lost, err) }
		local := netip.MustParseAddr("127.0.0.1")
		conn := dial(t, netip.AddrPortFrom(local, at.Port()))
		send(t, conn, []byte("ask"))
		from := read(t, s, 1).From(0)
		var out Outbox
		var want string
		for i, text := range []string{"a", "b", "c"} {
			reply := append(out.Buffer(), text...)
			if i == bad {
				reply = make([]byte, maxDatagram-1) // more than UDP carries
			} else {
				want += text
			}
			out.Reply(s, reply, 0, local, from)
		}
		out.Flush()
		if got := string(receive(t, conn)) + string(receive(t, conn)); got != want || len(lost) != 1 || !errors.Is(lost[0], unix.EMSGSIZE) {
			t.Errorf("reply %d refused: got %q, want %q, lost %v", bad, got, want, lost)
		}
		out.Flush() // nothing is sent twice
		out.Reply(s, append(out.Buffer(), "once"...), 0, local, from)
		out.Flush()
		if got := string(receive(t, conn)); got != "once" {
			t.Errorf("got %q", got)
		}
	}
}

// More datagrams than one call moves leave in several, in order, and a change of the
// socket lets nothing wait or get mixed up.
func TestOutbox(t *testing.T) {
	s, at := open(t, "udp4", "127.0.0.1")
	to := dial(t, at)
	connected, err := New(to, s.lost)
	if err != nil {
		t.Fatal(err)
	}
	send(t, to, []byte("ask"))
	client := *read(t, s, 1).From(0)
	var out Outbox
	const n = 2*Size + 3
	for i := range n {
		out.Send(connected, fmt.Append(out.Buffer(), "query ", i))
		if i%10 == 9 {
			out.Reply(s, fmt.Append(out.Buffer(), "reply ", i), 0, at.Addr(), &client)
		}
	}
	out.Flush()
	if out.letters != nil {
		t.Error("an empty outbox holds memory")
	}
	for i := 0; i < n; {
		b, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		for j := range b.Len() {
			if got, want := string(b.Datagram(j)), fmt.Sprint("query ", i); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
			i++
		}
	}
	for i := 9; i < n; i += 10 {
		if got, want := string(receive(t, to)), fmt.Sprint("reply ", i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// A socket that waits holds no memory, and wakes for a datagram, for its deadline, and
// when it is closed.
func TestWait(t *testing.T) {
	s, at := open(t, "udp4", "127.0.0.1")
	conn := dial(t, at)
	send(t, conn, []byte("a"))
	read(t, s, 1)
	tried := make(chan bool, 1)
	receive := s.readable
	s.readable = func(fd uintptr) bool {
		done := receive(fd)
		if !done && s.batch != nil {
			t.Error("waits with a batch")
		}
		select {
		case tried <- done:
		default:
		}
		return done
	}
	got := make(chan error)
	go func() {
		_, err := s.Read()
		got <- err
	}()
	if <-tried {
		t.Fatal("read something")
	}
	send(t, conn, []byte("b"))
	if err := <-got; err != nil || s.batch == nil || string(s.batch.Datagram(0)) != "b" {
		t.Fatalf("after EAGAIN: %v", err)
	}
	_ = s.conn.SetReadDeadline(time.Now())
	if _, err := s.Read(); !errors.Is(err, os.ErrDeadlineExceeded) || s.batch != nil {
		t.Errorf("after the deadline: %v", err)
	}
	s.conn.Close()
	if _, err := s.Read(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// Datagrams that come one by one, and those that come together behind such a one, are taken
// in order and whole, and each reply goes to whom it is for.
func TestLoneDatagrams(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "0.0.0.0"} {
		t.Run(host, func(t *testing.T) {
			s, at := open(t, "udp4", host)
			local := netip.MustParseAddr("127.0.0.1")
			var out Outbox
			var lone []bool
			served := make(chan error)
			go func() {
				served <- s.Serve(func(b *Batch) {
					lone = append(lone, s.lone)
					for i := range b.Len() {
						out.Reply(s, append(append(out.Buffer(), '>'), b.Datagram(i)...), 0, b.Local(i), b.From(i))
					}
					out.Flush()
				})
			}()
			conns := []*net.UDPConn{dial(t, netip.AddrPortFrom(local, at.Port())), dial(t, netip.AddrPortFrom(local, at.Port()))}
			const rounds = 4
			for round := range rounds {
				for i, conn := range conns {
					for _, want := range [][]byte{fmt.Append(nil, "alone ", round, i), {}, bytes.Repeat([]byte{7}, 65506)} {
						send(t, conn, want)
						if got := receive(t, conn); !bytes.Equal(got, append([]byte{'>'}, want...)) {
							t.Fatalf("%d octets have become %d", len(want), len(got))
						}
					}
				}
			}
			for i := range 2*Size + 3 {
				send(t, conns[0], fmt.Append(nil, i))
			}
			for i := range 2*Size + 3 {
				if got := string(receive(t, conns[0])); got != ">"+fmt.Sprint(i) {
					t.Fatalf("datagram %d is %q", i, got)
				}
			}
			_ = s.conn.SetReadDeadline(time.Now())
			if err := <-served; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			// The next one may come before anybody has looked for a second.
			if alone := slices.Contains(lone, true); alone != s.bound.IsValid() {
				t.Errorf("taken alone is %v", lone)
			}
		})
	}
}

// Many sockets that had something to read share few batches.
func TestIdleSocketsShareMemory(t *testing.T) {
	const n = 200
	seen := make(map[*Batch]bool)
	for range n {
		s, at := open(t, "udp4", "127.0.0.1")
		send(t, dial(t, at), []byte("a"))
		seen[read(t, s, 1)] = true
		_ = s.conn.SetReadDeadline(time.Unix(1, 0))
		if _, err := s.Read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	// The pool forgets at times, and under the race detector on purpose.
	if len(seen) > n/2 {
		t.Errorf("%d batches for %d sockets", len(seen), n)
	}
}

func TestAllocatesNothing(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "::"} {
		s, at := open(t, "udp", host)
		conn, buf := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())), make([]byte, 512)
		var out Outbox
		allocs := testing.AllocsPerRun(100, func() {
			_, _ = conn.Write(buf[:7])
			b, err := s.Read()
			if err != nil {
				t.Fatal(err)
			}
			out.Reply(s, append(out.Buffer(), b.Datagram(0)...), 0, b.Local(0), b.From(0))
			out.Flush()
			if n, err := conn.Read(buf); n != 7 || err != nil {
				t.Fatal(n, err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations", host, allocs)
		}
	}
}

func TestNewRefusesWhatIsClosed(t *testing.T) {
	s, _ := open(t, "udp4", "127.0.0.1")
	s.conn.Close()
	if _, err := New(s.conn, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := s.WriteTo(nil, netip.Addr{}, netip.AddrPort{}); err == nil {
		t.Error("sent to nobody")
	}
}

// FuzzControl reads any control messages: no panic, and an address only where packet
// information stands.
func FuzzControl(f *testing.F) {
	v4, v6 := &Socket{}, &Socket{v6: true}
	tag4, tag6 := netip.MustParseAddr("127.53.0.7"), netip.MustParseAddr("fd64::7")
	f.Add(v4.AppendSource(nil, tag4))
	f.Add(v6.AppendSource(nil, tag6))
	f.Add(v6.AppendSource(v4.AppendSource(nil, tag4), tag6))
	f.Add(unix.UnixRights(1, 2, 3))
	f.Add(v4.AppendSource(nil, tag4)[:27])
	f.Add(make([]byte, unix.CmsgSpace(0)))
	f.Fuzz(func(t *testing.T, control []byte) {
		addr := localOf(control)
		if !addr.IsValid() {
			return
		}
		if addr.Is4In6() || addr.Zone() != "" {
			t.Errorf("address %s", addr)
		}
		octets := addr.AsSlice()
		if !bytes.Contains(control, octets) {
			t.Errorf("%s stands nowhere in %x", addr, control)
		}
	})
}

// What AppendSource writes is what the system package writes.
func TestSource(t *testing.T) {
	addr4, addr6 := netip.MustParseAddr("127.53.0.7"), netip.MustParseAddr("fd64::7")
	if got, want := (&Socket{}).AppendSource(nil, addr4), unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: addr4.As4()}); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if got, want := (&Socket{v6: true}).AppendSource(nil, addr6), unix.PktInfo6(&unix.Inet6Pktinfo{Addr: addr6.As16()}); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}
