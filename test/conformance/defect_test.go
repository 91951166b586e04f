// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"testing"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/probe"
)

// TestKnownDefectIPv6TagsAnswerLoopbackAlone pins a defect of loader.Listen, so that
// nobody takes the rest of this package for proof that it works. As the loader leaves
// its sockets, a query to an IPv6 nameserver that is not the primary one is lost unless
// its source is ::1; see reachAnySource for the reason and the remedy. When this test
// fails the defect is gone: remove the test, reachAnySource and resolver.asListened.
func TestKnownDefectIPv6TagsAnswerLoopbackAlone(t *testing.T) {
	w := newWorld(t, stateUp, 0, loader.Options{})
	w.resolver = &resolver{ns: w.client, asListened: true}
	w.resolver.start(t, w.datapath, w.scope())
	n := namesOf(probe.V6)
	got := w.probe.Run(t, probe.Spec{
		Family: probe.V6, Owner: probe.OwnerNone, Wait: shortWait,
		Steps: steps(to(probe.SendTo, n.other), call(probe.RecvFrom)),
	})
	if got.Errno != "EAGAIN" {
		t.Errorf("result %+v, want the query lost: is loader.Listen mended?", got)
	}
}
