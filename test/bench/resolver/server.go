// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
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
	tableName   = "www.example.org"
	tableAddr   = "192.0.2.1"
	cachedLabel = "cached"
	cachedName  = "cached.example.net"
	forwardZone = "example.net" // below it are the names that nobody has asked for yet
)

// row is one kind of query.
type row string

const (
	rowTableUDP row = "table"
	rowTableTCP row = "table TCP"
	rowCache    row = "cache hit"
	rowForward  row = "forward"
)

func rows() []row { return []row{rowTableUDP, rowTableTCP, rowCache, rowForward} }

// Sets of rows that a server can do.
var (
	authoritative = []row{rowTableUDP, rowTableTCP}
	everything    = rows()
)

// server is what is measured.
type server struct {
	name string
	rows []row
	// binary and debian are the program, and the package that brings it; empty for
	// roles of this program, but for another build of it.
	binary, debian string
	// command is its command line in the foreground, on one thread; files go to dir.
	command func(dir string, at, up netip.AddrPort) ([]string, error)
	role    string

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

// startTimeout bounds the start of a server.
const startTimeout = 15 * time.Second

// start runs the server on the first processor until the benchmark ends, and returns
// when it answers.
func (s *server) start(tb testing.TB, ns *testenv.NetNS, at, up netip.AddrPort) {
	tb.Helper()
	s.addr, s.cgroup = at, testenv.NewCgroup(tb)
	var cmd *exec.Cmd
	if s.role != "" {
		cmd = testenv.Command(tb, s.role, at.String(), up.String())
		if s.binary != "" {
			cmd.Path = s.binary
		}
	} else {
		dir := tb.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil { // some become another user
			tb.Fatal(err)
		}
		args, err := s.command(dir, at, up)
		if err != nil {
			tb.Fatalf("configure %s: %v", s.name, err)
		}
		cmd = exec.Command(s.binary, args...)
		cmd.Dir = dir
	}
	log := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = log, log, time.Second
	s.cgroup.Enter(cmd)
	pin(tb, serverCPU, func() { ns.Start(cmd) })
	s.pid = cmd.Process.Pid
	names := []string{tableName}
	if slices.Contains(s.rows, rowCache) {
		names = append(names, cachedName) // which is kept from now on
	}
	for _, name := range names {
		if err := await(ns, at, name); err != nil {
			tb.Fatalf("start %s: %v\n%s", s.name, err, log)
		}
	}
}

// await asks until there is an answer.
func await(ns *testenv.NetNS, at netip.AddrPort, name string) (err error) {
	client := &dns.Client{Timeout: 250 * time.Millisecond}
	question := new(dns.Msg).SetQuestion(name+".", dns.TypeA)
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ns.Do(func() { _, _, err = client.Exchange(question, at.String()) })
		if err == nil {
			return nil
		}
	}
	return err
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
func (s *server) cpu() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(s.cgroup.Path, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			usec, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(usec) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("no usage_usec in cpu.stat of %s", s.name)
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
