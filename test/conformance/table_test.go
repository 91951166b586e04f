// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dnsteer/dnsteer/test/probe"
)

// TestTable runs every shape for every family and owner in every state.
func TestTable(t *testing.T) {
	hostOwners := []probe.Owner{
		probe.OwnerNone, probe.OwnerUID, probe.OwnerGID,
		probe.OwnerBefore, probe.OwnerSeteuid, probe.OwnerPassed,
	}
	// In a user namespace 1337 is another number to the kernel; the ways to become it are
	// the same, but that nobody outside passes sockets in.
	mappedOwners := []probe.Owner{probe.OwnerNone, probe.OwnerUID, probe.OwnerGID, probe.OwnerBefore, probe.OwnerSeteuid}

	for _, s := range []state{
		stateAbsent, stateUp, stateSealed, stateDead, stateLeft, stateHung,
		stateClosedDead, stateClosedHung, stateStranger, stateForeign,
	} {
		for _, users := range []struct {
			name   string
			first  int
			owners []probe.Owner
		}{
			{"host", 0, hostOwners},
			{"userns", userIDs, mappedOwners},
		} {
			t.Run(string(s)+"/"+users.name, func(t *testing.T) {
				t.Parallel()
				w := worldIn(t, s, users.first)
				for _, owner := range users.owners {
					t.Run(string(owner), func(t *testing.T) { w.runShapes(t, owner) })
				}
			})
		}
	}
}

func (w *world) runShapes(t *testing.T, owner probe.Owner) {
	w.seen = w.counts(t)
	for _, sh := range shapes() {
		if sh.resolver && !w.answers() {
			continue // nobody to talk to on purpose
		}
		for _, f := range []probe.Family{probe.V4, probe.V6, probe.Mapped, probe.V6Only} {
			if !sh.has(f) {
				continue
			}
			t.Run(sh.name+"/"+string(f), func(t *testing.T) {
				w.check(t, probe.Spec{
					Family: f, Stream: sh.stream, Owner: owner,
					Steps: sh.steps(namesOf(f)), Wait: sh.wait,
				})
			})
		}
	}
}

// answers tells whether who listens also answers. What hangs in the other worlds is its
// heart alone.
func (w *world) answers() bool { return w.state.listens() && !(w.agent && w.state == stateHung) }

// listens tells whether somebody serves the target.
func (s state) listens() bool {
	switch s {
	case stateUp, stateSealed, stateHung, stateClosedHung, stateStranger, stateForeign:
		return true
	}
	return false
}

// check runs a Spec and compares all that there is to see with what is expected. Nothing
// may have been counted since the last look at the counters.
func (w *world) check(t *testing.T, spec probe.Spec) {
	t.Helper()
	want := w.expect(spec)
	if want.Result.Errno != "EAGAIN" {
		spec.Wait = 0 // no query is lost here: an answer may take its time
	}
	got := expected{Result: w.probe.Run(t, spec)}
	got.Counts = w.change(t)
	got.Result.Local = anyPort(got.Result.Local)
	if reflect.DeepEqual(want, got) {
		return // as nearly always, and a tenth of the work of cmp
	}
	if diff := cmp.Diff(want, got, same()...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", spec.Family, diff)
	}
}

// anyPort makes all ports that the kernel chose the same.
func anyPort(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), min(a.Port(), 1))
}

func same() []cmp.Option {
	return []cmp.Option{cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{}), cmpopts.EquateEmpty()}
}
