// SPDX-License-Identifier: Apache-2.0

package seed

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"

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

// TestMissing shows that a kernel without one of the ingredients is told from one
// that has all, and that the ingredient is named.
func TestMissing(t *testing.T) {
	if missing := Missing(t); missing != "" {
		t.Errorf("this kernel lacks %s", missing)
	}
	unknown := ingredient{"an expression of the future", func(conn *nftables.Conn, chain *nftables.Chain) {
		addRule(conn, chain, []expr.Any{&expr.Meta{Key: 1 << 20, Register: 1}})
	}}
	missing := firstMissing(t, append(ingredients(), unknown))
	if !strings.HasPrefix(missing, unknown.name+": ") {
		t.Errorf("missing: %q, want one that begins with %q", missing, unknown.name)
	}
}
