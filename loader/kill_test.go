// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// die takes a step of a life in a process that kills itself on the way.
func die(t *testing.T, l life) {
	t.Helper()
	arg, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	out, err := testenv.Command(t, "life", string(arg)).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%s was to die at %q: %v\n%s", l.Step, l.DieAt, err, out)
	}
}

// stages lists those that a step goes through.
func stages(t *testing.T, step string, legacy bool) []string {
	t.Helper()
	opts := pinned(t)
	var all []string
	s := seams{legacy: legacy, reached: func(stage string) { all = append(all, stage) }}
	d := mustLoad(t, opts, s)
	d.Close()
	if step != "load" {
		all = nil
	}
	if step == "upgrade" {
		s.alter = anotherVersion
		if changed, err := upgradeWith(opts, (*attachment).update, s); !changed || err != nil {
			t.Fatalf("upgrade: %v, %v", changed, err)
		}
	}
	if step != "unload" {
		s.reached = nil
	}
	if err := unloadWith(opts, 0, s); err != nil {
		t.Fatal(err)
	}
	// The first hook, the first that steers, and the last stand for all.
	all = slices.DeleteFunc(all, func(stage string) bool {
		return slices.ContainsFunc(hooks(), func(h hook) bool {
			return strings.HasSuffix(stage, h.name) && !slices.Contains([]string{"recvmsg4", "sendmsg4", "connect6"}, h.name)
		})
	})
	if len(all) == 0 {
		t.Fatalf("%s has no stages", step)
	}
	return all
}

// kinds calls f for links and for the legacy call.
func kinds(t *testing.T, f func(t *testing.T, legacy bool)) {
	t.Run("link", func(t *testing.T) { f(t, false) })
	t.Run("legacy", func(t *testing.T) { f(t, true) })
}

func TestKilledWhileLoading(t *testing.T) {
	testenv.Privileged(t)
	kinds(t, func(t *testing.T, legacy bool) {
		for _, stage := range stages(t, "load", legacy) {
			t.Run(stage, func(t *testing.T) {
				opts := pinned(t)
				die(t, life{Options: opts, Step: "load", Legacy: legacy, DieAt: stage})
				if stage == "published" {
					_, err := Load(opts)
					wantErr(t, "load what is loaded", err, ErrLoaded)
				} else {
					_, err := Open(opts)
					wantErr(t, "open half a datapath", err, ErrNotLoaded)
					mustLoad(t, opts, seams{legacy: legacy})
				}
				wantAttached(t, opts.Cgroup, 1)
				if err := Unload(opts, 0); err != nil {
					t.Errorf("unload: %v", err)
				}
				wantClean(t, opts)
			})
		}
	})
}

// limit: what the legacy call has attached, and nobody pinned, stays when its process is
// killed, until the cgroup goes.
func TestKilledWithoutPins(t *testing.T) {
	kinds(t, func(t *testing.T, legacy bool) {
		cgroup := testenv.NewCgroup(t)
		opts := Options{Cgroup: filepath.Join(cgroup.Path, "app")}
		if err := os.Mkdir(opts.Cgroup, 0o755); err != nil {
			t.Fatal(err)
		}
		die(t, life{Options: opts, Step: "load", Legacy: legacy, DieAt: "attached connect6"})
		left := 0
		if checkLink(opts).Severity != OK || legacy {
			left = 1
		}
		wantAttached(t, opts.Cgroup, left)
		remove(t, opts.Cgroup)
		wantAttached(t, cgroup.Path, 0)
	})
}

func TestKilledWhileLoadingThenSwept(t *testing.T) {
	kinds(t, func(t *testing.T, legacy bool) {
		opts := pinned(t)
		die(t, life{Options: opts, Step: "load", Legacy: legacy, DieAt: "pinned"})
		wantAttached(t, opts.Cgroup, 1) // fails open: there is no listener
		_, id, err := openCgroup(opts.Cgroup)
		if err != nil {
			t.Fatal(err)
		}
		swept, err := Sweep(opts.BPFFS)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]uint64{id}, swept); diff != "" {
			t.Errorf("swept (-want +got):\n%s", diff)
		}
		wantClean(t, opts)
	})
}

func TestKilledWhileUpgrading(t *testing.T) {
	testenv.Privileged(t)
	kinds(t, func(t *testing.T, legacy bool) {
		for _, stage := range stages(t, "upgrade", legacy) {
			t.Run(stage, func(t *testing.T) {
				opts := pinned(t)
				mustLoad(t, opts, seams{legacy: legacy})
				die(t, life{Options: opts, Step: "upgrade", Legacy: legacy, DieAt: stage})
				d, err := Open(opts)
				if err != nil {
					t.Fatalf("open: %v", err)
				}
				d.Close()
				s := seams{legacy: legacy, alter: anotherVersion}
				if _, err := upgradeWith(opts, (*attachment).update, s); err != nil {
					t.Fatalf("upgrade again: %v", err)
				}
				if left, err := filepath.Glob(opts.root() + "/*/progs/*" + nextSuffix); err != nil || len(left) > 0 {
					t.Errorf("pins of what has become the program: %v, %v", left, err)
				}
				if changed, err := upgradeWith(opts, (*attachment).update, s); changed || err != nil {
					t.Errorf("upgrade to what is there: %v, %v", changed, err)
				}
				wantAttached(t, opts.Cgroup, 1)
				if err := Unload(opts, 0); err != nil {
					t.Errorf("unload: %v", err)
				}
				wantClean(t, opts)
			})
		}
	})
}

func TestKilledWhileUpgradingThenUnloaded(t *testing.T) {
	kinds(t, func(t *testing.T, legacy bool) {
		opts := pinned(t)
		mustLoad(t, opts, seams{legacy: legacy})
		die(t, life{Options: opts, Step: "upgrade", Legacy: legacy, DieAt: "updated sendmsg4"})
		if err := Unload(opts, 0); err != nil {
			t.Errorf("unload: %v", err)
		}
		wantClean(t, opts)
	})
}

func TestKilledWhileUnloading(t *testing.T) {
	testenv.Privileged(t)
	kinds(t, func(t *testing.T, legacy bool) {
		for _, stage := range stages(t, "unload", legacy) {
			for _, next := range []string{"unload", "load"} {
				t.Run(stage+"/then "+next, func(t *testing.T) {
					opts := pinned(t)
					mustLoad(t, opts, seams{legacy: legacy})
					die(t, life{Options: opts, Step: "unload", Legacy: legacy, DieAt: stage})
					_, err := Open(opts)
					wantErr(t, "open", err, ErrDetached)
					_, err = Upgrade(opts)
					wantErr(t, "upgrade", err, ErrDetached)
					if next == "load" {
						mustLoad(t, opts, seams{legacy: legacy})
						wantAttached(t, opts.Cgroup, 1)
					}
					if err := Unload(opts, 0); err != nil {
						t.Errorf("unload: %v", err)
					}
					wantClean(t, opts)
				})
			}
		}
	})
}
