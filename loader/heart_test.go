// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// standStill makes the word of a pulse look as if it had beaten so long ago.
func (h *hearts) standStill(p pulse, since time.Duration) {
	then := (monotonic() - uint64(since)) >> heartTickBits & heartTimeMask
	atomic.StoreUint64(&h.words[p.slot], uint64(p.generation)<<heartTimeBits|then)
}

func mustClaim(t *testing.T, h *hearts) pulse {
	t.Helper()
	p, err := h.claim()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A word belongs to one process at a time, and goes to another only when it stands still.
func TestHearts(t *testing.T) {
	h := &hearts{words: make([]uint64, 8)}
	if h.beat(pulse{}) || h.beat(pulse{8, 1}) {
		t.Error("a word of nobody beats")
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	claimed := make(map[uint32]pulse)
	for range h.words {
		all.Go(func() {
			p, err := h.claim()
			mu.Lock()
			defer mu.Unlock()
			if _, taken := claimed[p.slot]; taken || err != nil || p.generation != 1 {
				t.Errorf("claimed %+v, %v", p, err)
			}
			claimed[p.slot] = p
		})
	}
	all.Wait()
	if p, err := h.claim(); err == nil {
		t.Errorf("claimed %+v of words that all beat", p)
	}
	old := claimed[5]
	h.standStill(old, heartStale/2)
	if p, err := h.claim(); err == nil {
		t.Errorf("claimed %+v, which has only stood still for a moment", p)
	}
	if !h.beat(old) {
		t.Error("it cannot go on after a moment")
	}
	h.standStill(old, 2*heartStale)
	heir := mustClaim(t, h)
	if diff := cmp.Diff(pulse{5, 2}, heir, cmp.AllowUnexported(pulse{})); diff != "" {
		t.Errorf("heir (-want +got):\n%s", diff)
	}
	before := h.words[5]
	if h.beat(old) || h.words[5] != before {
		t.Error("the one before beats for its heir")
	}
	last := pulse{5, 1<<(64-heartTimeBits) - 1}
	h.standStill(last, 2*heartStale)
	if p := mustClaim(t, h); p != (pulse{5, 1}) {
		t.Errorf("after the last generation comes %+v", p)
	}
	h.close()
	if _, err := h.claim(); err == nil || h.beat(pulse{5, 1}) {
		t.Errorf("closed, and claimed: %v", err)
	}
}

// pod is a namespace with a scope.
type pod struct {
	*world
	enrolment *Enrolment
}

// newPod makes another namespace for the datapath's cgroup, and enrols it on a heart.
func newPod(t *testing.T, w *world, d *Datapath, h *Heart) pod {
	t.Helper()
	other := *w
	other.client, other.server = testenv.NewLink(t)
	testenv.Nameserver(t, other.server, at(primary), nil)
	p := pod{world: &other}
	other.client.Do(func() {
		l, err := Listen(d.Port())
		if err != nil {
			t.Fatal(err)
		}
		p.enrolment = h.Attend(l)
		t.Cleanup(p.enrolment.Close)
		stop, err := answer(p.enrolment)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		if err := p.enrolment.Enrol(scope()); err != nil {
			t.Fatal(err)
		}
	})
	return p
}

func newHeartOf(t *testing.T, d *Datapath) *Heart {
	t.Helper()
	h, err := d.NewHeart()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	if err := h.Beat(); err != nil { // of nothing
		t.Error(err)
	}
	return h
}

func (p pod) wantAnswers(t *testing.T, from netip.Addr) {
	t.Helper()
	s := shape{Server: at(primary)}
	p.startQuerier(t, s).settle(t, 3).wantFrom(t, s, from)
}

// One heart is all scopes' of its process, and none of another's.
func TestHeartOfManyScopes(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	ours, theirs := newHeartOf(t, d), newHeartOf(t, d)
	a, b, other := newPod(t, w, d, ours), newPod(t, w, d, ours), newPod(t, w, d, theirs)
	t.Cleanup(beatUntil(here, ours.Beat))
	stop := beatUntil(here, theirs.Beat) // what follows may take longer than a heart may stand still
	for _, p := range []pod{a, b, other} {
		p.wantAnswers(t, fromTable)
	}
	stop()
	since := time.Now()
	testenv.Eventually(t, waitMost, func() error {
		if time.Since(since) < 3*time.Second {
			return errUnexpected("too early to be hung")
		}
		return nil
	})
	a.wantAnswers(t, fromTable)
	b.wantAnswers(t, fromTable)
	other.wantAnswers(t, testenv.AnswerOf(primary))
	if err := theirs.Beat(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(beatUntil(here, theirs.Beat))
	other.wantAnswers(t, fromTable)
	if err := a.enrolment.Withdraw(); err != nil {
		t.Fatal(err)
	}
	a.wantAnswers(t, testenv.AnswerOf(primary))
	b.wantAnswers(t, fromTable)
}

// A process that stood still for so long that another has its word: its scopes do not live
// by the other's heart, and are steered again as soon as it goes on.
func TestLostHeart(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	for _, tc := range []struct {
		name string
		beat func(p pod) error
	}{
		{"of many scopes", func(p pod) error { return p.enrolment.heart.Beat() }},
		{"of one", func(p pod) error { return p.enrolment.Beat() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPod(t, w, d, newHeartOf(t, d))
			h := p.enrolment.heart
			stop := beatUntil(here, h.Beat) // what follows may take longer than a heart may stand still
			p.wantAnswers(t, fromTable)
			stop()
			lost := h.pulse
			heir := pulse{lost.slot, lost.generation + 1}
			h.words.standStill(heir, 0) // beating
			p.wantAnswers(t, testenv.AnswerOf(primary))
			stop = beatUntil(here, func() error { return tc.beat(p) })
			p.wantAnswers(t, fromTable)
			stop()
			if h.pulse.slot == lost.slot || h.words.words[lost.slot]>>heartTimeBits != uint64(heir.generation) {
				t.Errorf("lost %+v, has %+v, and the heir's word is %x", lost, h.pulse, h.words.words[lost.slot])
			}
		})
	}
}

// The successor of a process takes its scopes over, and they live on when that has gone.
func TestAdopt(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	before, after := newHeartOf(t, d), newHeartOf(t, d)
	p := newPod(t, w, d, before)
	p.wantAnswers(t, fromTable)
	var listeners []*os.File
	for _, f := range p.enrolment.Listeners.Files() { // as they come over a socket
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, os.NewFile(uintptr(fd), "listener"))
	}
	adopted, err := after.Adopt(listeners)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(adopted.Close)
	stop, err := answer(adopted)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	p.enrolment.Close()
	before.Close()
	t.Cleanup(beatUntil(here, after.Beat))
	since := time.Now()
	testenv.Eventually(t, waitMost, func() error {
		if time.Since(since) < 3*time.Second {
			return errUnexpected("the heart before still counts")
		}
		return nil
	})
	p.wantAnswers(t, fromTable)
	if origin, ok := adopted.Origin(netip.MustParseAddr("127.0.0.1")); !ok || origin != primary {
		t.Errorf("127.0.0.1 stands for %s, %v", origin, ok)
	}
	if _, err := after.Adopt(nil); err == nil {
		t.Error("adopted a scope without listeners")
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := after.Adopt([]*os.File{file}); err == nil || file.Close() == nil {
		t.Errorf("adopted a file: %v", err)
	}
}

// What getsockname shows follows the namespace's addresses, by itself.
func TestFollowRoutes(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	e := w.resolve(t, d)
	var stop func()
	var err error
	w.client.Do(func() {
		stop, err = e.FollowRoutes(func(f func() error) (err error) {
			w.client.Do(func() { err = f() })
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			stop()
		}
	})
	sources := func() (s bpf.SteerScope) {
		t.Helper()
		if s, err = e.read(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if got := fromAddress(sources().Source[familyIPv4]); got != netip.MustParseAddr("192.0.2.1") {
		t.Fatalf("source is %s before", got)
	}
	const added = "192.0.2.99"
	w.client.Do(func() {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		mask := net.CIDRMask(32, 32)
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(added), Mask: mask}}); err != nil {
			t.Fatal(err)
		}
		err = netlink.RouteAdd(&netlink.Route{
			LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Src: net.ParseIP(added),
			Dst: &net.IPNet{IP: primary.AsSlice(), Mask: mask},
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	testenv.Eventually(t, waitMost, func() error {
		s := sources()
		if got := fromAddress(s.PrimarySource[familyIPv4]); got != netip.MustParseAddr(added) {
			return errUnexpected("the primary nameserver is reached from %s, want %s", got, added)
		}
		return nil
	})
	if err := e.Withdraw(); err != nil {
		t.Fatal(err)
	}
	stop()
	stopped = true
}
