// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/seed"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) {
	all := roles()
	maps.Copy(all, seed.Roles())
	maps.Copy(all, etc.Roles())
	testenv.Main(m, all)
}

// side is one of two processes that take turns.
type side struct {
	cgroup *testenv.Cgroup
	in     io.Writer
	out    *bufio.Reader

	calls     int
	wall, cpu []float64 // nanoseconds a call, of each turn; cpu is the whole cgroup's
}

// newSide starts a process that makes calls to server.
func newSide(tb testing.TB, ns *testenv.NetNS, cgroup *testenv.Cgroup, server netip.AddrPort) *side {
	tb.Helper()
	question, err := new(dns.Msg).SetQuestion(seed.TableName, dns.TypeA).Pack()
	if err != nil {
		tb.Fatalf("pack question: %v", err)
	}
	// It has zero bytes, which an argument cannot have.
	path := filepath.Join(tb.TempDir(), "question")
	if err := os.WriteFile(path, question, 0o644); err != nil {
		tb.Fatalf("write question: %v", err)
	}
	cmd := testenv.Command(tb, roleCaller, server.String(), path, seed.TableAddr().String())
	s := &side{cgroup: cgroup}
	if s.in, err = cmd.StdinPipe(); err != nil {
		tb.Fatalf("make pipe: %v", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatalf("make pipe: %v", err)
	}
	s.out = bufio.NewReader(stdout)
	cmd.Stderr = os.Stderr
	cgroup.Enter(cmd)
	ns.Start(cmd)
	return s
}

// reset forgets what was measured.
func (s *side) reset() { s.calls, s.wall, s.cpu = 0, nil, nil }

// turn makes n calls.
func (s *side) turn(b *testing.B, what call, n int) {
	b.Helper()
	before := s.usage(b)
	if _, err := fmt.Fprintln(s.in, what, n); err != nil {
		b.Fatalf("tell caller: %v", err)
	}
	line, err := s.out.ReadString('\n')
	if err != nil {
		b.Fatalf("read from caller: %v", err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		b.Fatalf("read from caller: %v", err)
	}
	s.calls += n
	s.wall = append(s.wall, float64(ns)/float64(n))
	s.cpu = append(s.cpu, float64((s.usage(b)-before).Nanoseconds())/float64(n))
}

// usage is the processor time that the side's cgroup has had.
func (s *side) usage(b *testing.B) time.Duration {
	b.Helper()
	text, err := os.ReadFile(filepath.Join(s.cgroup.Path, "cpu.stat"))
	if err != nil {
		b.Fatalf("read processor time: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			usec, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				b.Fatalf("read processor time: %v", err)
			}
			return time.Duration(usec) * time.Microsecond
		}
	}
	b.Fatal("find usage_usec in cpu.stat")
	return 0
}

// median is what one call takes when nobody else wants the processor.
func median(turns []float64) float64 {
	sorted := slices.Sorted(slices.Values(turns))
	return sorted[len(sorted)/2]
}

// inTurns makes b.N calls on each side, batch by batch, the other one first each time.
func inTurns(b *testing.B, what call, batch int, sides ...*side) {
	b.Helper()
	for _, s := range sides {
		s.turn(b, what, batch) // caches, neighbours, tags
		s.reset()
	}
	b.ResetTimer()
	for left := b.N; left > 0; left -= batch {
		for _, s := range sides {
			s.turn(b, what, min(batch, left))
		}
		sides[0], sides[len(sides)-1] = sides[len(sides)-1], sides[0]
	}
	b.ReportMetric(0, "ns/op") // of both together, which means nothing
}
