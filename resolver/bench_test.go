// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// window is how many queries of a benchmark are on their way at once.
const window = 64

// BenchmarkServer measures what a server in a process of its own costs: CPU time a
// query, as the kernel accounts it, which a noisy machine leaves alone where queries
// per second it does not.
func BenchmarkServer(b *testing.B) {
	client, server := testenv.NewLink(b)
	up := netip.MustParseAddrPort("192.0.2.53:53")
	testenv.Nameserver(b, server, up, nil)
	at := netip.MustParseAddrPort("127.0.0.1:15053")
	cmd := startServer(b, client, at, up)
	for _, bench := range []struct{ name, network, qname string }{
		{"table", "udp", "table.example.org"}, {"cache", "udp", "cached.example.org"},
		{"table", "tcp", "table.example.org"}, {"cache", "tcp", "cached.example.org"},
	} {
		b.Run(bench.name+"/"+bench.network, func(b *testing.B) {
			var conn net.Conn
			client.Do(func() { conn = connect(b, bench.network, at) })
			wire := pack(b, query(bench.qname, dns.TypeA))
			send(b, conn, wire)
			receive(b, conn)
			before := cpuOf(b, cmd.Process.Pid)
			b.ResetTimer()
			flood(b, conn, wire, b.N)
			b.StopTimer()
			b.ReportMetric(float64((cpuOf(b, cmd.Process.Pid)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/query")
		})
	}
}

// flood asks n times, a window at a time.
func flood(b *testing.B, conn net.Conn, wire []byte, n int) {
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	out := wire
	if isStream(conn) {
		out = append([]byte{byte(len(wire) >> 8), byte(len(wire))}, wire...)
	}
	buf := make([]byte, maxWire)
	for n > 0 {
		now := min(n, window)
		n -= now
		for range now {
			if _, err := conn.Write(out); err != nil {
				b.Fatal(err)
			}
		}
		for range now {
			var err error
			if isStream(conn) {
				_, err = appendFrame(buf[:0], conn)
			} else {
				_, err = conn.Read(buf)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// cpuOf is the CPU time of a process so far, in user and in system mode.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, field := range fields[11:13] { // utime, stime: proc(5)
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// startServer serves at an address of a namespace, in a process of its own.
func startServer(b *testing.B, ns *testenv.NetNS, at, up netip.AddrPort) *exec.Cmd {
	b.Helper()
	cmd := testenv.Command(b, roleServe, at.String(), up.String())
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	ns.Start(cmd)
	testenv.Eventually(b, patience, func() (err error) {
		ns.Do(func() { err = Ping(b.Context(), at) })
		return err
	})
	return cmd
}
