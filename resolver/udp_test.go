// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"testing"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// The loop of a socket answers what is ready without an allocation, from the system
// call that reads to the one that writes.
func TestUDPLoopAllocatesNothing(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		for name, q := range map[string]*dns.Msg{
			"table": query("web.example.org", dns.TypeA),
			"cache": withEDNS(query("a.example.net", dns.TypeA), 1232),
			"large": query(testenv.MeshName(7), dns.TypeA),
		} {
			t.Run(host+" "+name, func(t *testing.T) {
				l, addr := listen(t, host)
				t.Cleanup(l.close)
				u, err := newUDPSocket(l.UDP[0], nil)
				if err != nil {
					t.Fatal(err)
				}
				s := warm(t)
				if name == "large" {
					many, err := ParseTable(manyNames(largeTable, FormatHosts))
					if err != nil {
						t.Fatal(err)
					}
					s.SetTable(many)
				}
				v := &serving{Server: s, Scope: s.own}
				wire := pack(t, q)
				askWire(t, v.Server, wire, false)
				loop, conn, buf := v.newUDPLoop(u), connect(t, "udp", addr), make([]byte, maxWire)
				answered := 0
				const together, runs = 3, 200
				allocs := testing.AllocsPerRun(runs, func() {
					for range together {
						_, _ = conn.Write(wire)
					}
					b, err := u.Read()
					if err != nil {
						t.Fatal(err)
					}
					loop.take(b)
					for range together {
						if n, err := conn.Read(buf); err == nil && buf[2]&0x80 != 0 && n > len(wire) {
							answered++
						}
					}
				})
				if allocs != 0 || answered != together*(1+runs) { // once to warm up
					t.Errorf("%v allocations, %d answers", allocs, answered)
				}
			})
		}
	}
}
