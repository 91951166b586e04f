// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// attend opens listeners in the client namespace.
func (w *world) attend(t *testing.T, d *Datapath) *Enrolment {
	t.Helper()
	var l *Listeners
	var err error
	w.client.Do(func() { l, err = Listen(d.Port()) })
	if err != nil {
		t.Fatal(err)
	}
	e, err := d.Attend(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func (w *world) enrol(t *testing.T, e *Enrolment, s Scope) {
	t.Helper()
	w.client.Do(func() {
		if err := e.Enrol(s); err != nil {
			t.Fatal(err)
		}
	})
}

// What the parent says last holds, whatever the worker has seen before.
func TestEnrolWhileAnotherBeats(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	e := w.attend(t, d)
	worker := w.startWorker(t, e)
	w.enrol(t, e, scope())
	for i := range 50 {
		s := scope()
		s.PrimaryIPv4 = netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
		told := worker.asking("beat")
		w.enrol(t, e, s)
		if got := <-told; got != "ok" {
			t.Fatalf("beat: %s", got)
		}
		if got := worker.tell(t, "beat"); got != "ok" {
			t.Fatalf("beat: %s", got)
		}
		if got := worker.tell(t, "127.0.0.1"); got != s.PrimaryIPv4.String() {
			t.Fatalf("the worker knows %s, want %s", got, s.PrimaryIPv4)
		}
		settings, err := e.read()
		if err != nil || fromAddress(settings.Primary[familyIPv4]) != s.PrimaryIPv4 {
			t.Fatalf("a beat brought back %v, %v", settings, err)
		}
	}
	for range 20 {
		w.enrol(t, e, scope())
		told := worker.asking("beat")
		if err := e.Withdraw(); err != nil {
			t.Fatal(err)
		}
		if got := <-told; got != "ok" && got != "no scope" {
			t.Fatalf("beat: %s", got)
		}
		if _, err := e.read(); !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Fatalf("a beat brought the scope back: %v", err)
		}
	}
}

// A beat from anywhere, or a look from another namespace, keeps the addresses of the scope.
func TestBeatElsewhere(t *testing.T) {
	w := newWorld(t)
	e := w.resolve(t, w.load(t))
	before, err := e.read()
	if err != nil {
		t.Fatal(err)
	}
	if want := toAddress(netip.MustParseAddr("192.0.2.1")); before.Source[familyIPv4] != want || before.PrimarySource[familyIPv4] != want {
		t.Errorf("sources are %v and %v, want %v", before.Source, before.PrimarySource, want)
	}
	if err := errors.Join(e.Beat(), e.Refresh()); err != nil {
		t.Fatal(err)
	}
	after, err := e.read()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("scope (-before +after):\n%s", diff)
	}
}

// A heartbeat that stops is a withdrawal, after 2 s; one that goes on is not.
func TestHung(t *testing.T) {
	w := newWorld(t)
	e := w.resolve(t, w.load(t))
	s := shape{Server: at(primary)}
	c := w.startQuerier(t, s)
	start := time.Now()
	c.settle(t, 5).wantFrom(t, s, fromTable)
	testenv.Eventually(t, waitMost, func() error {
		if r := c.report(t); len(r.Errors) > 0 || r.Answers[testenv.AnswerOf(primary).String()] == 0 {
			return errUnexpected("still steered: %v", r)
		}
		return nil
	})
	if took := time.Since(start); took < time.Second || took > 4*time.Second {
		t.Errorf("passed by after %v, want about 2s", took)
	}
	w.client.Do(func() {
		if err := e.Beat(); err != nil {
			t.Fatal(err)
		}
	})
	c.settle(t, 5).wantFrom(t, s, fromTable)
}

func TestClosedEnrolment(t *testing.T) {
	w := newWorld(t)
	e := w.attend(t, w.load(t))
	e.Close()
	e.Close()
	for name, err := range map[string]error{"beat": e.Beat(), "refresh": e.Refresh(), "enrol": e.Enrol(scope()), "withdraw": e.Withdraw()} {
		wantErr(t, name, err, os.ErrClosed)
	}
	if origin, ok := e.Origin(netip.MustParseAddr("127.0.0.1")); ok {
		t.Errorf("origin is %s, want none", origin)
	}
}
