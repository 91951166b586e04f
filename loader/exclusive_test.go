// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestExclusiveGuest(t *testing.T) {
	testenv.Privileged(t)
	for _, place := range []string{"here", "above"} {
		for _, h := range hooks() {
			kinds(t, func(t *testing.T, legacy bool) {
				above := testenv.NewCgroup(t)
				cgroup := above.Child(t)
				where := cgroup
				if place == "above" {
					where = above
				}
				g := newGuest(t, hookNamed(t, "connect4"))
				if h.name != "connect4" {
					g = plainGuest(t, h)
				}
				g.attachLegacy(t, where, 0)
				opts := Options{Cgroup: cgroup.Path, BPFFS: testenv.BPFFS(t)}
				before := running(t, opts.Cgroup)
				_, err := loadWith(opts, seams{legacy: legacy})
				wantErr(t, "load", err, ErrExclusive)
				wantErr(t, "load", err, unix.EPERM)
				var failed *PreflightError
				if !errors.As(err, &failed) || len(failed.Findings) != 1 ||
					!strings.Contains(failed.Findings[0].Have, where.Path) ||
					!strings.Contains(failed.Findings[0].Have, h.name) ||
					!strings.Contains(failed.Findings[0].Remedy, "bpftool cgroup detach") {
					t.Errorf("load: %+v, want a finding about %s of %s", err, h.name, where.Path)
				}
				testenv.Eventually(t, waitMost, func() error {
					for name, ids := range running(t, opts.Cgroup) {
						if len(ids) != len(before[name]) {
							return errUnexpected("%s has %v, had %v", name, ids, before[name])
						}
					}
					return nil
				})
			})
		}
	}
}

// plainGuest does nothing, on any hook.
func plainGuest(t *testing.T, h hook) *guest {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "guest", Type: ebpf.CGroupSockAddr, AttachType: h.attach, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return &guest{program: program, hook: h}
}

// One above that allows to be overridden is no obstacle, but is overridden.
func TestOverridableGuestAbove(t *testing.T) {
	testenv.Privileged(t)
	above := testenv.NewCgroup(t)
	cgroup := above.Child(t)
	g := plainGuest(t, hookNamed(t, "connect4"))
	g.attachLegacy(t, above, allowOverride)
	opts := Options{Cgroup: cgroup.Path}
	f := findings(t, Preflight(opts), "foreign program")
	if len(f) != 1 || f[0].Severity != Warning || !strings.Contains(f[0].Have, "does not run in "+cgroup.Path) {
		t.Errorf("preflight: %+v, want a warning", f)
	}
	mustLoad(t, opts, seams{}).Close()
	// In the cgroup itself it is: the kernel wants the same flags for all.
	_, err := Load(Options{Cgroup: above.Path})
	wantErr(t, "load beside it", err, ErrExclusive)
}
