// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"testing"

	"github.com/miekg/dns"
)

// The loop of a socket answers what is ready without an allocation, from the system
// call that reads to the one that writes.
func TestBatchAllocatesNothing(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		for name, q := range map[string]*dns.Msg{
			"table": query("web.example.org", dns.TypeA),
			"cache": withEDNS(query("a.example.net", dns.TypeA), 1232),
		} {
			t.Run(host+" "+name, func(t *testing.T) {
				l, addr := listen(t, host)
				t.Cleanup(l.close)
				u, err := newUDPSocket(l.UDP[0])
				if err != nil {
					t.Fatal(err)
				}
				raw, err := u.conn.SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				v := &serving{Server: warm(t)}
				wire := pack(t, q)
				askWire(t, v.Server, wire, false)
				b, path := newBatch(raw, u), v.newWirePath()
				conn, buf := connect(t, "udp", addr), make([]byte, maxWire)
				answered := 0
				allocs := testing.AllocsPerRun(200, func() {
					_, _ = conn.Write(wire)
					_, _ = conn.Write(wire)
					for left := 2; left > 0; {
						n, err := b.read()
						if err != nil {
							t.Fatal(err)
						}
						left -= n
						if long := v.answerReady(u, b, path, n); long != 0 {
							t.Fatalf("not ready: %b", long)
						}
						b.flush(func(err error) { t.Error(err) })
					}
					for range 2 {
						if n, err := conn.Read(buf); err == nil && buf[2]&0x80 != 0 && n > len(wire) {
							answered++
						}
					}
				})
				if allocs != 0 || answered != 2*201 {
					t.Errorf("%v allocations, %d answers", allocs, answered)
				}
			})
		}
	}
}

// A reply that cannot be sent takes no other with it.
func TestBatchLosesOneOnly(t *testing.T) {
	l, addr := listen(t, "127.0.0.1")
	t.Cleanup(l.close)
	u, err := newUDPSocket(l.UDP[0])
	if err != nil {
		t.Fatal(err)
	}
	raw, err := u.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b, conn := newBatch(raw, u), connect(t, "udp", addr)
	for range 3 {
		send(t, conn, []byte("abc"))
	}
	// Over loopback a datagram has arrived when its send returns.
	if n, err := b.read(); n != 3 || err != nil {
		t.Fatalf("read %d datagrams, %v", n, err)
	}
	b.answer(u, 0, []byte("0"), loopback)
	b.answer(u, 1, make([]byte, maxWire), loopback) // more than UDP carries
	b.answer(u, 2, []byte("2"), loopback)
	lost := 0
	b.flush(func(error) { lost++ })
	if got := string(receive(t, conn)) + string(receive(t, conn)); got != "02" || lost != 1 {
		t.Errorf("got %q, lost %d", got, lost)
	}
}
