// SPDX-License-Identifier: Apache-2.0

package seed

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// Dnsteer steers the pod's cgroup with "dnsteer run" and lets its own resolver answer.
func Dnsteer(binary dnsteer.Binary) Interceptor {
	return &steering{name: "dnsteer", binary: binary, own: true}
}

// DnsteerMesh steers to the mesh's proxy ("dnsteer run --resolver=none"), whose
// source ports the story forces to collide.
func DnsteerMesh(binary dnsteer.Binary) Interceptor {
	return &steering{name: "dnsteer" + meshSuffix, binary: binary}
}

type steering struct {
	name    string
	binary  dnsteer.Binary
	own     bool
	service *dnsteer.Service
	leaks   *loader.LeakWatch
}

func (s *steering) Name() string                      { return s.name }
func (s *steering) OwnResolver() bool                 { return s.own }
func (s *steering) Command(_ testing.TB, _ *exec.Cmd) {}

// Install runs dnsteer in the pod's own cgroup: its resolver's queries pass the same
// hooks as the application's.
func (s *steering) Install(tb testing.TB, w *World) {
	tb.Helper()
	place := dnsteer.Place{
		Binary: s.binary, NetNS: w.Client, Cgroup: w.Cgroup,
		ResolvConf: fmt.Sprintf("nameserver %s\n", w.Nameserver.Addr()),
	}
	flags := []string{"--resolver=none"}
	if s.own {
		hosts := filepath.Join(tb.TempDir(), "hosts")
		if err := os.WriteFile(hosts, []byte(w.Hosts), 0o644); err != nil {
			tb.Fatalf("write names: %v", err)
		}
		flags = []string{"--hosts", hosts}
	}
	bpffs := testenv.BPFFS(tb)
	s.service = dnsteer.Run(tb, place, bpffs, flags...)
	s.leaks = watchLeaks(tb, place, bpffs)
	tb.Cleanup(func() {
		s.leaks.Close()
		s.service.Stop()
		dnsteer.AssertGone(tb, place, bpffs)
	})
}

func watchLeaks(tb testing.TB, place dnsteer.Place, bpffs string) *loader.LeakWatch {
	tb.Helper()
	d, err := loader.Open(loader.Options{Cgroup: place.Cgroup.Path, BPFFS: bpffs})
	if err != nil {
		tb.Fatalf("open datapath: %v", err)
	}
	defer d.Close()
	watch, err := d.WatchLeaks()
	if err != nil {
		tb.Fatal(err)
	}
	return watch
}

func (s *steering) Verdicts(tb testing.TB) Verdicts {
	var v Verdicts
	for verdict, calls := range s.service.Calls() {
		switch verdict {
		case loader.Steered:
			v.Steered += int(calls)
		case loader.Owner:
			v.Owner += int(calls)
		case loader.Restored: // of a reply, not of a query
		default:
			v.LeftAlone += int(calls)
		}
	}
	if s.own {
		v.Owner = min(v.Owner, 1)
	}
	leaks, err := s.leaks.Counts()
	if err != nil {
		tb.Fatal(err)
	}
	for _, l := range leaks {
		v.Leaked += int(l.Packets)
	}
	return v
}
