// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestList(t *testing.T) {
	needLinks(t)
	w := newWorld(t)
	if all, err := List(w.opts.BPFFS); err != nil || len(all) != 0 {
		t.Errorf("list of nothing: %v, %v", all, err)
	}
	_, err := List(t.TempDir())
	wantErr(t, "list a directory", err, ErrNotBPFFS)
	d := w.load(t)
	other := Options{Cgroup: testenv.NewCgroup(t).Path, BPFFS: w.opts.BPFFS, Port: 15099}
	mustLoad(t, other, seams{legacy: true})
	e := w.resolve(t, d)
	defer e.Close()
	w.startQuerier(t, shape{Server: at(primary)}).settle(t, 3)

	all, err := List(w.opts.BPFFS)
	if err != nil || len(all) != 2 {
		t.Fatalf("list: %+v, %v, want two", all, err)
	}
	if all[0].Cgroup != w.opts.Cgroup {
		all[0], all[1] = all[1], all[0]
	}
	for i, want := range []struct {
		opts Options
		link bool
	}{{w.opts, true}, {other, false}} {
		got := all[i]
		if got.Cgroup != want.opts.Cgroup || got.Port != want.opts.port() || got.Layout == 0 || got.Problem != "" || len(got.Hooks) != 8 {
			t.Errorf("loaded: %+v", got)
		}
		on := running(t, want.opts.Cgroup)
		for _, h := range got.Hooks {
			if !h.Attached || h.Link != want.link || h.Tag == "" || h.Program != uint32(on[h.Name][0]) {
				t.Errorf("hook: %+v", h)
			}
		}
	}
	if len(all[0].Counts) == 0 || all[0].Counts[0].Verdict != Steered || len(all[1].Counts) != 0 {
		t.Errorf("counts: %+v and %+v", all[0].Counts, all[1].Counts)
	}
	wire, err := json.Marshal(all[0])
	if err != nil || !strings.Contains(string(wire), `"verdict":"steered"`) {
		t.Errorf("json: %s, %v", wire, err)
	}
	for _, opts := range []Options{w.opts, other} {
		if err := Unload(opts, 0); err != nil {
			t.Error(err)
		}
	}
}
