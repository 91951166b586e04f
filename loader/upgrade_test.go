// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
)

func TestUpgradeReplacesPrograms(t *testing.T) {
	kinds(t, func(t *testing.T, legacy bool) {
		opts := pinned(t)
		d := mustLoad(t, opts, seams{legacy: legacy})
		tag := bpf.SteerAddress{Word: [4]uint32{1, 2, 3, 4}}
		if err := d.maps[bpf.SteerMapSteerTag].Put(uint32(7), tag); err != nil {
			t.Fatal(err)
		}
		before := running(t, opts.Cgroup)
		changed, err := upgradeWith(opts, (*attachment).update, seams{legacy: legacy, alter: anotherVersion})
		if !changed || err != nil {
			t.Fatalf("upgrade: %v, %v", changed, err)
		}
		after := running(t, opts.Cgroup)
		for _, h := range hooks() {
			if len(after[h.name]) != 1 || after[h.name][0] == before[h.name][0] {
				t.Errorf("%s has programs %v, had %v", h.name, after[h.name], before[h.name])
			}
		}
		d.Close()
		if d, err = Open(opts); err != nil {
			t.Fatalf("open: %v", err)
		}
		defer d.Close()
		for _, a := range d.attachments {
			if id, err := programID(a.program); err != nil || id != after[a.hook.name][0] {
				t.Errorf("pin of %s is program %d, %v, attached is %d", a.hook.name, id, err, after[a.hook.name][0])
			}
		}
		var kept bpf.SteerAddress
		if err := d.maps[bpf.SteerMapSteerTag].Lookup(uint32(7), &kept); err != nil || kept != tag {
			t.Errorf("a tag has become %v, %v, want %v", kept, err, tag)
		}
		if err := Unload(opts, 0); err != nil {
			t.Error(err)
		}
		wantClean(t, opts)
	})
}

func TestFailedUpgradeRestores(t *testing.T) {
	errBroken := errors.New("broken")
	kinds(t, func(t *testing.T, legacy bool) {
		for failing, h := range hooks() {
			t.Run(h.name, func(t *testing.T) {
				opts := pinned(t)
				mustLoad(t, opts, seams{legacy: legacy})
				before := running(t, opts.Cgroup)
				var n int
				update := func(a *attachment, p *ebpf.Program) error {
					if n++; n > failing {
						return errBroken
					}
					return a.update(p)
				}
				_, err := upgradeWith(opts, update, seams{legacy: legacy, alter: anotherVersion})
				wantErr(t, "upgrade", err, errBroken)
				if diff := cmp.Diff(before, running(t, opts.Cgroup)); diff != "" {
					t.Errorf("programs (-before +after):\n%s", diff)
				}
				d, err := Open(opts)
				if err != nil {
					t.Fatalf("open: %v", err)
				}
				d.Close()
				if err := Unload(opts, 0); err != nil {
					t.Error(err)
				}
				wantClean(t, opts)
			})
		}
	})
}

// A link whose cgroup went says ENOLINK; so does one that somebody detached.
func TestUpgradeOfDefunctLink(t *testing.T) {
	needLinks(t)
	opts := pinned(t)
	mustLoad(t, opts, seams{})
	update := func(a *attachment, _ *ebpf.Program) error {
		if err := a.link.Detach(); err != nil {
			return err
		}
		return a.update(a.program)
	}
	_, err := upgradeWith(opts, update, seams{alter: anotherVersion})
	wantErr(t, "upgrade", err, ErrDetached)
	wantErr(t, "upgrade", err, unix.ENOLINK)
	if err := Unload(opts, 0); err != nil {
		t.Error(err)
	}
	wantClean(t, opts)
}

func TestUpgradeWithoutGap(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	e := w.resolve(t, d)
	w.keepBeating(t, e)
	for _, s := range []shape{{Server: at(primary)}, {Server: at(secondary)}, {Server: at(primary), Mapped: true}} {
		s.Busy = true
		child := w.startQuerier(t, s)
		child.settle(t, 10)
		for i := range 10 {
			version := seams{}
			if i%2 == 0 {
				version.alter = anotherVersion
			}
			if changed, err := upgradeWith(w.opts, (*attachment).update, version); !changed || err != nil {
				t.Fatalf("upgrade: %v, %v", changed, err)
			}
		}
		child.report(t).wantFrom(t, s, fromTable)
	}
	for _, s := range w.nameservers {
		if n := len(s.Queries()); n > 0 {
			t.Errorf("%s was asked %d times", s.Addr, n)
		}
	}
	if err := Unload(w.opts, 0); err != nil {
		t.Error(err)
	}
}
