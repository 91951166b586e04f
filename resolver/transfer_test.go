// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func zoneSOA(serial int) string {
	return fmt.Sprintf("example.org. 5 IN SOA ns.example.org. root.example.org. %d 1 2 3 4", serial)
}

func zoneA(i int) string { return fmt.Sprintf("n%d.example.org. 5 IN A 192.0.2.%d", i, i) }

// Zone transfers pass message by message, and end where their SOA records say:
// RFC 5936 section 2.2, RFC 1995 section 4.
func TestTransfer(t *testing.T) {
	for _, tc := range []struct {
		name     string
		qtype    uint16
		have     uint32 // the client's serial, IXFR
		messages [][]string
	}{
		{"AXFR in one message", dns.TypeAXFR, 0, [][]string{{zoneSOA(7), zoneA(1), zoneSOA(7)}}},
		{"AXFR in many", dns.TypeAXFR, 0, [][]string{{zoneSOA(7)}, {zoneA(1), zoneA(2)}, {zoneA(3)}, {zoneSOA(7)}}},
		{"IXFR, up to date", dns.TypeIXFR, 7, [][]string{{zoneSOA(7)}}},
		{"IXFR, the client is ahead", dns.TypeIXFR, 9, [][]string{{zoneSOA(7)}}},
		{"IXFR, whole zone", dns.TypeIXFR, 5, [][]string{{zoneSOA(7), zoneA(1)}, {zoneA(2), zoneSOA(7)}}},
		{"IXFR, whole zone, SOA alone", dns.TypeIXFR, 5, [][]string{{zoneSOA(7)}, {zoneA(1)}, {zoneSOA(7)}}},
		{"IXFR, differences", dns.TypeIXFR, 5, [][]string{
			{zoneSOA(7), zoneSOA(5), zoneA(1), zoneSOA(6)}, {zoneA(2), zoneSOA(6)}, {zoneA(2), zoneSOA(7)}, {zoneA(3), zoneSOA(7)},
		}},
		{"refused", dns.TypeAXFR, 0, [][]string{{}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := upstream(t, nil, func(reply func([]byte), q asked) {
				for i, records := range tc.messages {
					reply(respond(t, q.wire, func(m *dns.Msg) {
						if i > 0 {
							m.Question = nil
						}
						if len(records) == 0 {
							m.Rcode = dns.RcodeRefused
						}
					}, records...))
				}
			})
			s, addr := start(t, quick(up.addr))
			s.SetTable(table(t, "names: {example.org: [192.0.2.9]}"))
			q := query("example.org", tc.qtype)
			if tc.qtype == dns.TypeIXFR {
				q.SetIxfr("example.org.", tc.have, "ns.example.org.", "root.example.org.")
			}
			conn := connect(t, "tcp", addr)
			send(t, conn, pack(t, q))
			for _, want := range tc.messages {
				got := unpack(t, receive(t, conn))
				if diff := cmp.Diff(append([]string(nil), want...), lines(got.Answer)); diff != "" || got.Id != q.Id {
					t.Errorf("ID %d, records (-want +got):\n%s", got.Id, diff)
				}
			}
			// The connection goes on.
			send(t, conn, pack(t, query("example.org", dns.TypeA)))
			if got := unpack(t, receive(t, conn)); len(got.Answer) != 1 {
				t.Errorf("after the transfer: %v", got)
			}
		})
	}
}

// A transfer that breaks off must not look whole: the connection is closed.
func TestTransferBreaksOff(t *testing.T) {
	for name, second := range map[string]func(q asked) []byte{
		"closed":        nil,
		"damaged":       func(q asked) []byte { w := respond(t, q.wire, nil, zoneA(1)); return w[:len(w)-1] },
		"another's":     func(q asked) []byte { q.wire[0] ^= 1; return respond(t, q.wire, nil, zoneA(1)) },
		"short":         func(asked) []byte { return []byte{1, 2, 3} },
		"not an answer": func(q asked) []byte { return q.wire },
	} {
		t.Run(name, func(t *testing.T) {
			up := upstream(t, nil, func(reply func([]byte), q asked) {
				reply(respond(t, q.wire, nil, zoneSOA(7), zoneA(1)))
				if second != nil {
					reply(second(q))
				}
			})
			_, addr := start(t, quick(up.addr))
			conn := connect(t, "tcp", addr)
			send(t, conn, pack(t, query("example.org", dns.TypeAXFR)))
			receive(t, conn)
			// At once, and not because the connection was idle in the end.
			_ = conn.SetReadDeadline(time.Now().Add(tcpIdle / 2))
			if w, err := readFrame(conn); !errors.Is(err, io.EOF) {
				t.Errorf("got %x, %v", w, err)
			}
		})
	}
}

// The next server is tried for a transfer too, and a failure has its reason.
func TestTransferFailover(t *testing.T) {
	up := upstream(t, nil, with(t, nil, zoneSOA(7), zoneSOA(7)))
	down, closing := closedPort(t), upstream(t, nil, func(func([]byte), asked) {})
	_, addr := start(t, quick(down, closing.addr, up.addr))
	if got := exchange(t, "tcp", addr, query("example.org", dns.TypeAXFR)); len(got.Answer) != 2 {
		t.Errorf("got %v", got)
	}
	_, addr = start(t, quick(down, closing.addr))
	got := exchange(t, "tcp", addr, withEDNS(query("example.org", dns.TypeAXFR), 1232))
	want := fmt.Sprintf("upstream %s: connection refused; upstream %s: closed the connection without an answer", down, closing.addr)
	if _, text := ede(got); got.Rcode != dns.RcodeServerFailure || text != want {
		t.Errorf("got %s %q, want %q", dns.RcodeToString[got.Rcode], text, want)
	}
}

// A transfer holds its turn until it is over, and gives it back.
func TestTransferTurns(t *testing.T) {
	up := upstream(t, nil, func(reply func([]byte), q asked) {
		reply(respond(t, q.wire, nil, zoneSOA(7)))
		reply(respond(t, q.wire, nil, zoneSOA(7)))
	})
	_, addr := start(t, Config{Upstreams: []netip.AddrPort{up.addr}, MaxForwards: 1})
	for range 3 {
		conn := connect(t, "tcp", addr)
		send(t, conn, pack(t, query("example.org", dns.TypeAXFR)))
		for range 2 {
			if got := unpack(t, receive(t, conn)); got.Rcode != dns.RcodeSuccess {
				t.Fatalf("got %v", got)
			}
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		if _, err := readFrame(conn); err == nil {
			t.Error("a third message")
		}
	}
}

// deaf is a connection without deadlines.
type deaf struct{ net.Conn }

func (deaf) SetDeadline(time.Time) error { return nil }

// FuzzTransfer is a server that sends anything after the question for a zone: each
// message that is relayed is one, with the client's ID, and the zone is whole only where
// an SOA record says so (RFC 5936 section 2.2).
func FuzzTransfer(f *testing.F) {
	asked := func(tb testing.TB, qtype uint16) *Request {
		q := query("example.org", qtype)
		if qtype == dns.TypeIXFR {
			q.SetIxfr("example.org.", 5, "ns.example.org.", "root.example.org.")
		}
		req, err := newRequest(packet{wire: pack(tb, q), tcp: true})
		if err != nil {
			tb.Fatal(err)
		}
		return req
	}
	frames := func(wire []byte, messages ...[]string) []byte {
		var out bytes.Buffer
		for _, records := range messages {
			_ = writeFrame(&out, respond(f, wire, func(m *dns.Msg) { m.Id = 7 }, records...))
		}
		return out.Bytes()
	}
	for _, ixfr := range []bool{false, true} {
		wire := asked(f, dns.TypeAXFR).msg.wire
		if ixfr {
			wire = asked(f, dns.TypeIXFR).msg.wire
		}
		f.Add(frames(wire, []string{zoneSOA(7), zoneA(1)}, []string{zoneSOA(7)}), ixfr)
		f.Add(frames(wire, []string{zoneSOA(7), zoneSOA(5), zoneA(1), zoneSOA(6)}, []string{zoneA(2), zoneSOA(7)}), ixfr)
		f.Add(frames(wire, []string{zoneSOA(5)}), ixfr)
	}
	f.Fuzz(func(t *testing.T, sent []byte, ixfr bool) {
		qtype := dns.TypeAXFR
		if ixfr {
			qtype = dns.TypeIXFR
		}
		req := asked(t, qtype)
		tr := &transfer{conn: deaf{}, reader: bufio.NewReader(bytes.NewReader(sent)), req: req, id: 7, seen: newSerials(req), done: func() {}}
		for octets := 0; ; {
			m, err := tr.next()
			if err != nil {
				if whole := errors.Is(err, io.EOF); whole != tr.seen.over {
					t.Errorf("ends with %v, whole %t", err, tr.seen.over)
				}
				return
			}
			checkAnswer(t, req.msg.wire, fit(nil, req, m, ""), true)
			if octets += 2 + len(m.wire); octets > len(sent) {
				t.Fatalf("%d octets of %d", octets, len(sent))
			}
		}
	})
}
