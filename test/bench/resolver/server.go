// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	tableZone   = "example.org"
	tableName   = "www." + tableZone
	tableAddr   = "192.0.2.1"
	cachedLabel = "cached"
	cachedName  = "cached.example.net"
	cachedAddr  = "192.0.2.2"   // of whatever the upstream answers
	forwardZone = "example.net" // below it are the names that nobody has asked for yet
)

// row is one kind of query.
type row string

const (
	rowTableUDP row = "table"
	rowTableTCP row = "table TCP"
	rowCache    row = "cache hit"
	rowForward  row = "forward"
	rowThousand row = "thousand"
	rowMillion  row = "million"
	// rowAlone is no row to ask for: it is what a query costs where latency is measured.
	rowAlone row = "alone"
)

func rows() []row {
	return []row{rowTableUDP, rowTableTCP, rowCache, rowForward, rowThousand, rowMillion}
}

// table is the one that a server has for the row.
func (r row) table() table {
	switch r {
	case rowThousand:
		return thousand
	case rowMillion:
		return million
	}
	return one
}

// Sets of rows that a server can do.
var (
	everything    = rows()
	authoritative = []row{rowTableUDP, rowTableTCP, rowThousand, rowMillion}
	// small is for those who cannot have a million names: dnsdist tries its rules one
	// after the other; dnsmasq and the recursor had not read the names after two minutes.
	small = []row{rowTableUDP, rowTableTCP, rowCache, rowForward}
)

// server is what is measured.
type server struct {
	name string
	rows []row
	// binary and debian are the program, and the package that brings it; empty for
	// roles of this program, but for another build of it.
	binary, debian string
	// command is its command line in the foreground, on one thread; files go to dir.
	command func(dir string, at, up netip.AddrPort, names table) ([]string, error)
	role    string

	table  table
	addr   netip.AddrPort
	cgroup *testenv.Cgroup
	pid    int
}

// find tells whether the server is installed, and resolves its program.
func (s *server) find() bool {
	if s.role != "" {
		return true
	}
	for _, dir := range []string{"", "/usr/sbin/", "/usr/local/sbin/", "bin/"} {
		if path, err := exec.LookPath(dir + s.binary); err == nil {
			s.binary, err = filepath.Abs(path)
			return err == nil
		}
	}
	return false
}

// with is the server with a table, for those of the chosen rows that the table is for.
func (s *server) with(names table, chosen []string) *server {
	with := *s
	with.table = names
	with.rows = slices.DeleteFunc(slices.Clone(s.rows), func(r row) bool { return r.table() != names || !among(chosen, string(r)) })
	return &with
}

// startTimeout bounds the start of a server with one name, longTimeout with many, of
// which unbound reads a million in 16 s of CPU.
const startTimeout, longTimeout = time.Minute, 5 * time.Minute

// start runs the server on the first processor until the benchmark ends, and returns
// when it answers for its names. A server that has not come to it is no more.
func (s *server) start(tb testing.TB, ns *testenv.NetNS, at, up netip.AddrPort) error {
	tb.Helper()
	s.addr, s.cgroup = at, testenv.NewCgroup(tb)
	dir := tb.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { // some become another user
		tb.Fatal(err)
	}
	args, err := s.command(dir, at, up, s.table)
	if err != nil {
		tb.Fatalf("configure %s: %v", s.name, err)
	}
	var cmd *exec.Cmd
	if s.role != "" {
		cmd = testenv.Command(tb, s.role, args...)
		if s.binary != "" {
			cmd.Path = s.binary
		}
	} else {
		cmd = exec.Command(s.binary, args...)
		cmd.Dir = dir
	}
	log := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = log, log, time.Second
	s.cgroup.Enter(cmd)
	pin(tb, serverCPU, func() { ns.Start(cmd) })
	s.pid = cmd.Process.Pid
	if err := s.await(ns); err != nil {
		_ = os.WriteFile(filepath.Join(s.cgroup.Path, "cgroup.kill"), []byte("1"), 0) // with its helpers, where the kernel has it
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("%w %s", err, bytes.TrimSpace(log.Bytes()))
	}
	return nil
}

// await asks until the server answers for some names of its table, spread over it,
// and has what the cache shall have.
func (s *server) await(ns *testenv.NetNS) error {
	deadline := time.Now().Add(startTimeout)
	if s.table != one {
		deadline = time.Now().Add(longTimeout)
	}
	last := int(s.table) - 1
	for at := 0; at <= last; at += max(1, last/7) {
		if err := s.awaitAnswer(ns, s.table.name(at), s.table.addr(at), deadline); err != nil {
			return err
		}
	}
	if !slices.Contains(s.rows, rowCache) {
		return nil
	}
	return s.awaitAnswer(ns, cachedName, netip.MustParseAddr(cachedAddr), deadline)
}

// awaitAnswer asks until there is an answer, which must be right then. The one that only
// echoes has none.
func (s *server) awaitAnswer(ns *testenv.NetNS, name string, want netip.Addr, deadline time.Time) (err error) {
	client := &dns.Client{Timeout: time.Second}
	question := new(dns.Msg).SetQuestion(name+".", dns.TypeA)
	for ; time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var answer *dns.Msg
		ns.Do(func() { answer, _, err = client.Exchange(question, s.addr.String()) })
		if s.resident() == 0 {
			return errors.New("it has ended")
		}
		if err != nil || answer.Rcode != dns.RcodeSuccess {
			continue // it begins
		}
		if s.role == roleEcho {
			return nil
		}
		for _, rr := range answer.Answer {
			if a, ok := rr.(*dns.A); ok && a.A.Equal(want.AsSlice()) {
				return nil
			}
		}
		return fmt.Errorf("it answers for %s with %v", name, answer.Answer)
	}
	if err == nil {
		err = errors.New("it has only failures for answers, or is late")
	}
	return fmt.Errorf("wait for an answer for %s: %w", name, err)
}

// Processors. The load shares its own with the upstream: only the server's is measured.
const serverCPU, loadCPU = 0, 1

// pin runs f on one processor; what it starts stays there.
func pin(tb testing.TB, cpu int, f func()) {
	tb.Helper()
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine: it is locked and not unlocked.
		runtime.LockOSThread()
		var set unix.CPUSet
		set.Set(cpu)
		err := unix.SchedSetaffinity(0, &set)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		tb.Fatalf("bind to processor %d: %v", cpu, err)
	}
}

// cpu is the processor time that the server has had.
func (s *server) cpu(tb testing.TB) time.Duration {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(s.cgroup.Path, "cpu.stat"))
	if err != nil {
		tb.Fatalf("measure %s: %v", s.name, err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			if usec, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil {
				return time.Duration(usec) * time.Microsecond
			}
		}
	}
	tb.Fatalf("measure %s: no usage_usec in cpu.stat", s.name)
	return 0
}

// schedule puts all threads of the server under a policy of the scheduler.
func (s *server) schedule(tb testing.TB, policy uint32) {
	tb.Helper()
	threads, err := os.ReadFile(filepath.Join(s.cgroup.Path, "cgroup.threads"))
	if err != nil {
		tb.Fatalf("find threads of %s: %v", s.name, err)
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy}
	if policy == unix.SCHED_RR {
		attr.Priority = 1
	}
	for thread := range strings.FieldsSeq(string(threads)) {
		tid, _ := strconv.Atoi(thread)
		if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && err != unix.ESRCH {
			tb.Fatalf("schedule %s: %v", s.name, err)
		}
	}
}

// resident is the memory of the server's processes in octets.
func (s *server) resident() int {
	pids, _ := os.ReadFile(filepath.Join(s.cgroup.Path, "cgroup.procs"))
	total := 0
	for pid := range strings.FieldsSeq(string(pids)) {
		text, err := os.ReadFile(filepath.Join("/proc", pid, "statm"))
		fields := strings.Fields(string(text))
		if err != nil || len(fields) < 2 {
			continue // ended
		}
		pages, _ := strconv.Atoi(fields[1])
		total += pages * os.Getpagesize()
	}
	return total
}
