// SPDX-License-Identifier: Apache-2.0

package seed

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, Roles()) }

// TestStory asserts the exact figures of each mode.
func TestStory(t *testing.T) {
	binary := dnsteer.Build(t)
	for _, interceptor := range []Interceptor{
		Direct(), Netfilter(), Zones(),
		Dnsteer(binary), DnsteerMesh(binary),
		Both("dnsteer + netfilter", Netfilter(), Dnsteer(binary)),
		Both("dnsteer + netfilter, mesh resolver", Netfilter(), DnsteerMesh(binary)),
	} {
		t.Run(interceptor.Name(), func(t *testing.T) {
			want := Expect(interceptor.Name())
			if diff := cmp.Diff(want, Tell(t, interceptor)); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}
