// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) {
	roles := testenv.Roles{roleLoad: loadMain, roleWithout: without}
	maps.Copy(roles, etc.Roles())
	testenv.Main(m, roles)
}

const (
	tableName = "reviews.cluster2.example.org."
	// farName is not in the table, and its nameservers take their time: there is a
	// query of every client under way at almost every moment.
	farName  = "www.example.org."
	farDelay = 20 * time.Millisecond
	// otherName is not in the table either.
	otherName = "other.example.org."
)

var (
	// nameservers are asked by every load: those of resolv.conf, and those that are not
	// there and thus have tags.
	nameservers = []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.53:53"),
		netip.MustParseAddrPort("[2001:db8::53]:53"),
		netip.MustParseAddrPort("192.0.2.54:53"),
		netip.MustParseAddrPort("[2001:db8::54]:53"),
	}

	// Who answers for tableName: the table, or a nameserver.
	byTable      = netip.MustParseAddr("198.51.100.20")
	byNameserver = netip.MustParseAddr("198.51.100.53")
)

// world is a pod whose nameserver has the names of the table, with other addresses.
type world struct {
	place dnsteer.Place
	bpffs string
	hosts string // the name table's file

	nameservers []*testenv.Server
}

func newWorld(t *testing.T) *world {
	t.Helper()
	client, server := testenv.NewLink(t)
	w := &world{
		place: dnsteer.Place{
			Binary:     dnsteer.Build(t),
			NetNS:      client,
			Cgroup:     testenv.NewCgroup(t),
			ResolvConf: "nameserver 192.0.2.53\nnameserver 2001:db8::53\n",
		},
		bpffs: testenv.BPFFS(t),
		hosts: filepath.Join(t.TempDir(), "hosts"),
	}
	for _, addr := range nameservers {
		w.nameservers = append(w.nameservers, testenv.Nameserver(t, server, addr, dns.HandlerFunc(answer)))
	}
	w.writeHosts(t, byTable)
	return w
}

// answer knows every name.
func answer(w dns.ResponseWriter, r *dns.Msg) {
	if r.Question[0].Name == farName {
		<-time.After(farDelay)
	}
	testenv.Answers(byNameserver).ServeDNS(w, r)
}

func (w *world) writeHosts(t *testing.T, addr netip.Addr) {
	t.Helper()
	write(t, w.hosts, fmt.Sprintf("%s %s\n", addr, tableName))
}

// run starts "dnsteer run" with the world's names.
func (w *world) run(t *testing.T, flags ...string) *dnsteer.Service {
	t.Helper()
	return w.runWith(t, append([]string{"--hosts", w.hosts}, flags...)...)
}

// runWith starts "dnsteer run" with these flags alone.
func (w *world) runWith(t *testing.T, flags ...string) *dnsteer.Service {
	t.Helper()
	return dnsteer.Run(t, w.place, w.bpffs, flags...)
}

// load asks for tableName from the steered cgroup.
func (w *world) load(t *testing.T, timeout time.Duration, shapes ...Shape) *load {
	t.Helper()
	return w.start(t, plan{Name: tableName, Servers: nameservers, Shapes: shapes, Timeout: timeout})
}

// farLoad asks for farName.
func (w *world) farLoad(t *testing.T, shapes ...Shape) *load {
	t.Helper()
	return w.start(t, plan{Name: farName, Servers: nameservers, Shapes: shapes, Timeout: patience})
}

func (w *world) start(t *testing.T, p plan) *load {
	t.Helper()
	return startLoad(t, p, func(cmd *exec.Cmd) {
		w.place.Cgroup.Enter(cmd)
		w.place.Start(t, cmd)
	})
}

// assertAnswered fails the test for each query that was not answered, up to a few.
func assertAnswered(t *testing.T, queries []query) {
	t.Helper()
	failed := 0
	for _, q := range queries {
		if q.Err == "" && (q.Answer == byTable || q.Answer == byNameserver) {
			continue
		}
		if failed++; failed <= 5 {
			t.Errorf("%s to %s, %v to %v: answer %v: %s", q.Shape, q.Server, q.Start, q.End, q.Answer, q.Err)
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d queries were not answered", failed, len(queries))
	}
	t.Logf("%d queries", len(queries))
}

// kill ends a process with SIGKILL. The times are just before the signal, and when
// the process was dead and its sockets with it: a signal takes effect only when the
// process is next scheduled.
func kill(t *testing.T, pid int) (before, dead time.Duration) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("open process %d: %v", pid, err)
	}
	defer unix.Close(fd)
	before = now()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatalf("kill process %d: %v", pid, err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(awaitTimeout.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("wait for process %d to die: %d, %v", pid, n, err)
		}
		return before, now()
	}
}

// pause stops a process until the test ends or resume.
func pause(t *testing.T, pid int) (resume func()) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatalf("stop process %d: %v", pid, err)
	}
	testenv.Eventually(t, awaitTimeout, func() error { return stopped(pid) })
	resume = func() { _ = unix.Kill(pid, unix.SIGCONT) } // it may have ended
	t.Cleanup(resume)
	return resume
}

// stopped fails until every thread of the process stands still.
func stopped(pid int) error {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var n int
		var name, state string
		if _, err := fmt.Sscan(string(text), &n, &name, &state); err != nil {
			return err
		}
		if state != "T" {
			return fmt.Errorf("thread %d is in state %s", n, state)
		}
	}
	return nil
}
