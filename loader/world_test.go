// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// The nameservers of a world, and what the stand-in for a resolver answers.
var (
	primary   = netip.MustParseAddr("192.0.2.53")
	secondary = netip.MustParseAddr("192.0.2.54")
	primary6  = netip.MustParseAddr("2001:db8::53")
	fromTable = netip.MustParseAddr("198.51.100.200")
)

// world is a client namespace with a cgroup to steer, and nameservers.
type world struct {
	client, server *testenv.NetNS
	cgroup         *testenv.Cgroup
	opts           Options
	nameservers    map[netip.Addr]*testenv.Server
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.Privileged(t)
	w := &world{nameservers: make(map[netip.Addr]*testenv.Server)}
	w.client, w.server = testenv.NewLink(t)
	w.cgroup = testenv.NewCgroup(t)
	w.opts = Options{Cgroup: w.cgroup.Path, BPFFS: testenv.BPFFS(t)}
	for _, a := range []netip.Addr{primary, secondary, primary6} {
		w.nameservers[a] = testenv.Nameserver(t, w.server, netip.AddrPortFrom(a, 53), nil)
	}
	return w
}

// scope is the one that the tests enrol.
func scope() Scope {
	return Scope{OwnerUID: DefaultOwner, OwnerGID: DefaultOwner, PrimaryIPv4: primary, PrimaryIPv6: primary6}
}

// answersRead is for Unload while queriers ask: they have read their answers by then.
func answersRead() { time.Sleep(250 * time.Millisecond) }

// load loads the datapath; what the test leaves loaded is unloaded at its end.
func (w *world) load(t *testing.T) *Datapath {
	t.Helper()
	return mustLoad(t, w.opts, seams{})
}

func mustLoad(t *testing.T, opts Options, s seams) *Datapath {
	t.Helper()
	d, err := loadWith(opts, s)
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(d.Close)
	return d
}

// resolve opens listeners in the client namespace, enrols them, and answers.
func (w *world) resolve(t *testing.T, d *Datapath) *Enrolment {
	t.Helper()
	var e *Enrolment
	w.client.Do(func() { e = enrolHere(t, d) })
	return e
}

// enrolHere enrols the calling thread's namespace, and answers until the test ends.
func enrolHere(t *testing.T, d *Datapath) *Enrolment {
	t.Helper()
	l, err := Listen(d.Port())
	if err != nil {
		t.Fatal(err)
	}
	e, err := d.Attend(l)
	if err != nil {
		l.Close()
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	stop, err := answer(e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	if err := e.Enrol(scope()); err != nil {
		t.Fatalf("enrol: %v", err)
	}
	return e
}

// keepBeating renews the heartbeat until the test ends or stop is called.
func (w *world) keepBeating(t *testing.T, e *Enrolment) {
	t.Helper()
	t.Cleanup(beatUntil(w.client.Do, e.Beat))
}

// answer answers on the listeners, A with fromTable, until stop is called.
func answer(e *Enrolment) (stop func(), err error) {
	conns, err := e.Listeners.UDP()
	if err != nil {
		return nil, err
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = append(m.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
			A:   fromTable.AsSlice(),
		})
		_ = w.WriteMsg(m) // the client's deadline tells
	})
	var servers []*dns.Server
	for _, c := range conns {
		ready := make(chan struct{})
		s := &dns.Server{PacketConn: c, Handler: handler, NotifyStartedFunc: func() { close(ready) }}
		go func() { _ = s.ActivateAndServe() }()
		<-ready
		servers = append(servers, s)
	}
	return func() {
		for _, s := range servers {
			_ = s.Shutdown()
		}
	}, nil
}

// anotherVersion makes the programs differ in one instruction that does nothing.
func anotherVersion(spec *ebpf.CollectionSpec) {
	for _, p := range spec.Programs {
		p.Instructions = slices.Insert(p.Instructions, 1, asm.Mov.Imm(asm.R0, 0))
	}
}

// needLinks skips what only links do: a legacy program that nobody has pinned stays, and
// knows no socket that outlives its cgroup. Kernels with all hooks have links (Linux 5.7),
// but for masks.
func needLinks(t *testing.T) {
	t.Helper()
	if f := checkLink(Options{}); f.Severity != OK {
		t.Skipf("%s", f)
	}
}

// needWatch is for tests of leaks. A kernel without BTF or links lets nobody watch for them:
// there, that is what the caller hears, nothing stays behind, and the test has no more to do.
func (w *world) needWatch(t *testing.T, d *Datapath) {
	t.Helper()
	layout, links := checkLayout(), checkLink(Options{})
	want, f := ErrNoBTF, layout
	switch {
	case layout.Severity != OK:
	case links.Severity != OK:
		want, f = link.ErrNotSupported, links
	default:
		return
	}
	_, err := d.WatchLeaks()
	wantErr(t, "watch for leaks", err, want)
	wantErr(t, "count leaks", d.CountLeaks(true), want)
	if err := Unload(w.opts, 0); err != nil {
		t.Error(err)
	}
	wantClean(t, w.opts)
	t.Skipf("%s", f)
}

// running lists, for each hook of a cgroup, the programs on it.
func running(t *testing.T, cgroup string) map[string][]ebpf.ProgramID {
	t.Helper()
	all := make(map[string][]ebpf.ProgramID)
	for _, h := range hooks() {
		ids, _, err := queryHook(cgroup, h)
		if err != nil {
			t.Fatal(err)
		}
		if len(ids) > 0 {
			all[h.name] = ids
		}
	}
	return all
}

// wantClean fails the test if the cgroup has programs, or the BPF filesystem state of
// ours. A link that nobody holds is taken off a moment later.
func wantClean(t *testing.T, opts Options) {
	t.Helper()
	wantAttached(t, opts.Cgroup, 0)
	if n := len(leaksOf(t, opts.Cgroup)); n > 0 {
		t.Errorf("%d programs still look for leaks", n)
	}
	if opts.BPFFS == "" {
		return
	}
	if _, err := os.Stat(opts.root()); !os.IsNotExist(err) {
		left, _ := filepath.Glob(opts.root() + "/*/*/*")
		t.Errorf("state is left on the BPF filesystem: %v %v", err, left)
	}
}

// wantAttached waits until each hook has n programs.
func wantAttached(t *testing.T, cgroup string, n int) {
	t.Helper()
	testenv.Eventually(t, waitMost, func() error {
		all := running(t, cgroup)
		for _, h := range hooks() {
			if len(all[h.name]) != n {
				return errUnexpected("%d programs on %s, want %d", len(all[h.name]), h.name, n)
			}
		}
		return nil
	})
}

// remove removes a cgroup that has no processes.
func remove(t *testing.T, cgroup string) {
	t.Helper()
	if err := unix.Rmdir(cgroup); err != nil {
		t.Fatal(err)
	}
}
