// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/resolver/internal/mmsg"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// BenchmarkForward measures the CPU time of a server process for each query that is
// forwarded: every name is a new one. The upstream answers at once.
func BenchmarkForward(b *testing.B) {
	client, server := testenv.NewLink(b)
	up := netip.MustParseAddrPort("192.0.2.53:53")
	var conn *net.UDPConn
	server.Do(func() {
		var err error
		if conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(up)); err != nil {
			b.Fatal(err)
		}
	})
	_ = conn.SetReadBuffer(receiveBuffer)
	done := make(chan struct{})
	go func() {
		defer close(done)
		mirror(b, conn)
	}()
	b.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	at := netip.MustParseAddrPort("127.0.0.1:15053")
	cmd := startServer(b, client, at, up)
	var to net.Conn
	client.Do(func() { to = connect(b, "udp", at) })
	base := uint64(time.Now().UnixNano())
	before := cpuOf(b, cmd.Process.Pid)
	b.ResetTimer()
	lost := floodNames(b, to, base, b.N)
	b.StopTimer()
	b.ReportMetric(float64((cpuOf(b, cmd.Process.Pid)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/query")
	b.ReportMetric(float64(lost), "lost")
}

// mirror answers every query with an address.
func mirror(b testing.TB, conn *net.UDPConn) {
	s, err := mmsg.New(conn, func(error) {})
	if err != nil {
		b.Error(err)
		return
	}
	defer s.Release()
	var out mmsg.Outbox
	for {
		batch, err := s.Read()
		if err != nil {
			return
		}
		for i := range batch.Len() {
			wire := append(out.Buffer(), batch.Datagram(i)...)
			wire[2], wire[3] = wire[2]|0x84, wire[3]|0x80
			opt := []byte(nil)
			if wire[countAR+1] > 0 { // an OPT record of 11 octets, and nothing else
				opt = append(opt, wire[len(wire)-optFixed:]...)
				wire = wire[:len(wire)-optFixed]
			}
			wire[countAN+1] = 1
			wire = append(wire, 0xc0, headerLen, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1)
			out.Reply(s, append(wire, opt...), 0, batch.Local(i), batch.From(i))
		}
		out.Flush()
	}
}

// floodNames asks for n names, a window at a time, and returns how many had no answer.
func floodNames(b *testing.B, conn net.Conn, base uint64, n int) (lost int) {
	wire := pack(b, query(fmt.Sprintf("%016x.example.org", base), dns.TypeA))
	_ = conn.SetDeadline(time.Time{})
	buf := make([]byte, maxWire)
	sent, waiting := 0, 0
	for sent < n || waiting > 0 {
		for ; sent < n && waiting < window; sent, waiting = sent+1, waiting+1 {
			binary.BigEndian.PutUint16(wire, uint16(sent))
			copy(wire[headerLen+1:], fmt.Sprintf("%016x", base+uint64(sent)))
			if _, err := conn.Write(wire); err != nil {
				b.Fatal(err)
			}
		}
		_ = conn.SetReadDeadline(time.Now().Add(6 * time.Second))
		if _, err := conn.Read(buf); err != nil {
			lost += waiting
			waiting = 0
			continue
		}
		waiting--
	}
	return lost
}
