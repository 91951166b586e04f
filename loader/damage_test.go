// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/dnsteer/dnsteer/bpf"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestDamagedState(t *testing.T) {
	needLinks(t)
	for _, tc := range []struct {
		name   string
		damage func(dir string) error
		want   error
	}{
		{"a map is missing", func(dir string) error { return os.Remove(mapPin(dir, bpf.SteerMapSteerTag)) }, ErrLayout},
		{"a map is another", func(dir string) error {
			return os.Rename(mapPin(dir, bpf.SteerMapSteerTag), mapPin(dir, bpf.SteerMapSteerAbout))
		}, ErrLayout},
		{"all maps are missing", func(dir string) error { return os.RemoveAll(filepath.Join(dir, "maps")) }, ErrLayout},
		{"a program is missing", func(dir string) error { return os.Remove(progPin(dir, hooks()[3])) }, ErrLayout},
		{"a program is no program", func(dir string) error {
			return os.Rename(mapPin(dir, bpf.SteerMapSteerTag), progPin(dir, hooks()[0]))
		}, ErrLayout},
		{"a link is a program", func(dir string) error {
			return os.Rename(progPin(dir, hooks()[0]), linkPin(dir, hooks()[0]))
		}, ErrLayout},
		{"a link is missing", func(dir string) error { return os.Remove(linkPin(dir, hooks()[7])) }, ErrDetached},
		{"everything is missing", func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o750))
		}, ErrLayout},
		{"it is a link itself", func(dir string) error {
			link := filepath.Dir(dir) + "/1_link"
			return errors.Join(os.Rename(linkPin(dir, hooks()[0]), link), os.RemoveAll(dir), os.Rename(link, dir))
		}, ErrLayout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opts := pinned(t)
			d := mustLoad(t, opts, seams{})
			dir := opts.stateDir(d.id)
			d.Close()
			if err := tc.damage(dir); err != nil {
				t.Fatal(err)
			}
			// The kernel takes a link off its hook some time after its pin is gone.
			testenv.Eventually(t, waitMost, func() error {
				d, err := Open(opts)
				if err == nil {
					d.Close()
				}
				if !errors.Is(err, tc.want) {
					return errUnexpected("open: %v, want %v", err, tc.want)
				}
				return nil
			})
			if all, err := List(opts.BPFFS); err != nil || len(all) != 1 || all[0].Problem == "" {
				t.Errorf("list: %+v, %v, want one with a problem", all, err)
			}
			if err := Unload(opts, 0); err != nil {
				t.Errorf("unload: %v", err)
			}
			wantClean(t, opts)
			mustLoad(t, opts, seams{})
			if err := Unload(opts, 0); err != nil {
				t.Errorf("unload again: %v", err)
			}
		})
	}
}

func TestForeignersInStateDirectory(t *testing.T) {
	opts := pinned(t)
	for _, name := range []string{"readme", "12x", "0012", "_new", "99999999999999999999999"} {
		if err := os.MkdirAll(filepath.Join(opts.root(), name, "links"), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	mustLoad(t, opts, seams{})
	if all, err := List(opts.BPFFS); err != nil || len(all) != 1 || all[0].Problem != "" {
		t.Errorf("list: %+v, %v, want our own alone", all, err)
	}
	if err := Unload(opts, 0); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(opts.root())
	if err != nil || len(left) != 5 {
		t.Errorf("left are %v, %v, want the 5 that are not ours", left, err)
	}
	wantAttached(t, opts.Cgroup, 0)
}
