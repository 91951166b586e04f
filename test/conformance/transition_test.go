// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/probe"
)

// TestTransitions holds sockets that live through a change: the calls before Pause are
// made in one state, those after it in another.
func TestTransitions(t *testing.T) {
	udp4 := func(v loader.Verdict) verdict { return verdict{v, "ipv4", "udp"} }
	v4 := namesOf(probe.V4)
	first := "server=" + v4.first.Addr().String()
	resolverFirst := "resolver origin=" + v4.first.Addr().String()
	resolverOther := "resolver origin=" + v4.other.Addr().String()
	up := func(t *testing.T, w *world) { w.resolver = startResolver(t, w.client, w.datapath, w.scope()) }
	again := func(t *testing.T, w *world) {
		w.resolver = startResolverOn(t, w.client, w.datapath, w.scope(), w.listeners)
	}
	dies := func(_ *testing.T, w *world) { w.resolver.close() }
	withdraws := func(t *testing.T, w *world) {
		w.resolver.stopHeart() // a beat of what is no scope is an error
		if err := w.resolver.enrolment.Withdraw(); err != nil {
			t.Fatal(err)
		}
	}
	changesPrimary := func(t *testing.T, w *world) {
		scope := w.scope()
		scope.PrimaryIPv4 = v4.other.Addr()
		w.resolver.enrol(t, scope)
	}
	// conversation asks in one way before the change and in another after it.
	conversation := func(before, after []probe.Step) []probe.Step {
		return append(append(before, call(probe.Pause)), after...)
	}
	connect := steps(to(probe.Connect, v4.first), call(probe.Send), call(probe.RecvFrom))
	named := steps(to(probe.SendTo, v4.first), call(probe.RecvFrom))
	unnamed := steps(call(probe.Send), call(probe.RecvFrom))
	reconnect := steps(to(probe.Connect, v4.first), call(probe.Send), call(probe.RecvFrom))

	for _, tc := range []struct {
		name   string
		from   state
		family probe.Family
		steps  []probe.Step
		change func(t *testing.T, w *world)
		texts  []string
		errno  string
		counts counts
	}{
		{"a resolver comes: a connected socket stays where it is", stateDead, probe.V4,
			conversation(connect, unnamed), up, []string{first, first}, "",
			counts{udp4(loader.NoListener): 1}},
		// It takes packets from its peer alone, so steering it would lose the answer.
		{"a resolver comes: so does one that names its peer", stateDead, probe.V4,
			conversation(connect, named), up, []string{first, first}, "",
			counts{udp4(loader.NoListener): 1, udp4(loader.Bound): 1}},
		{"a resolver comes: so does one with a v4-mapped peer", stateDead, probe.Mapped,
			conversation(connect, unnamed), up, []string{first, first}, "",
			counts{udp4(loader.NoListener): 2, udp4(loader.Bound): 1}},
		{"a resolver comes: connected again, it is steered", stateDead, probe.V4,
			conversation(connect, reconnect), up, []string{first, resolverFirst}, "",
			counts{udp4(loader.NoListener): 1, udp4(loader.Steered): 1, udp4(loader.Restored): 2}},
		{"a resolver comes: an unconnected socket is steered", stateDead, probe.V4,
			conversation(named, named), up, []string{first, resolverFirst}, "",
			counts{udp4(loader.NoListener): 1, udp4(loader.Steered): 1, udp4(loader.Restored): 1}},
		{"the resolver dies: the next call goes to the nameserver", stateUp, probe.V4,
			conversation(named, named), dies, []string{resolverFirst, first}, "",
			counts{udp4(loader.Steered): 1, udp4(loader.Restored): 1, udp4(loader.NoListener): 1}},
		{"the resolver dies: so does that of a v4-mapped socket", stateUp, probe.Mapped,
			conversation(named, named), dies, []string{resolverFirst, first}, "",
			counts{udp4(loader.Steered): 1, udp4(loader.Restored): 1, udp4(loader.NoListener): 1}},
		// limit: no hook runs on send, so a connected socket has to connect again, as stub
		// resolvers do for each query, or be moved by Datapath.Return; or, as below, the
		// listeners have to outlive their resolver.
		{"the resolver dies: a connected socket learns of it", stateUp, probe.V4,
			conversation(connect, unnamed), dies, []string{resolverFirst}, "ECONNREFUSED",
			counts{udp4(loader.Steered): 1, udp4(loader.Restored): 2}},
		{"the resolver dies: connected again, it asks the nameserver", stateUp, probe.V4,
			conversation(connect, reconnect), dies, []string{resolverFirst, first}, "",
			counts{udp4(loader.Steered): 1, udp4(loader.Restored): 1, udp4(loader.NoListener): 1}},
		{"the resolver dies beside listeners: the next call goes to the nameserver", stateSealed, probe.V4,
			conversation(named, named), dies, []string{resolverFirst, first}, "",
			counts{udp4(loader.Steered): 1, udp4(loader.Restored): 1, udp4(loader.Stranger): 1}},
		{"another resolver comes: what a connected socket asked meanwhile is answered", stateLeft, probe.V4,
			conversation(steps(to(probe.Connect, v4.target), call(probe.Send)), steps(call(probe.Recv))), again,
			[]string{resolverFirst}, "", counts{}},
		{"another resolver: so is what is asked during the change", stateSealed, probe.V4,
			conversation(connect, unnamed), func(t *testing.T, w *world) { dies(t, w); again(t, w) },
			[]string{resolverFirst, resolverFirst}, "", counts{udp4(loader.Steered): 1, udp4(loader.Restored): 3}},
		{"the scope ends: the next call goes to the nameserver", stateUp, probe.V4,
			conversation(named, named), withdraws, []string{resolverFirst, first}, "",
			counts{udp4(loader.Steered): 1, udp4(loader.Restored): 1, udp4(loader.Stranger): 1}},
		{"the scope ends: an answer under way keeps its sender", stateUp, probe.V4,
			conversation(steps(to(probe.SendTo, v4.first)), steps(call(probe.RecvFrom))), withdraws, []string{resolverFirst}, "",
			counts{udp4(loader.Steered): 1, udp4(loader.Restored): 1}},
		{"another primary nameserver: a socket keeps what loopback means to it", stateUp, probe.V4,
			conversation(named, steps(to(probe.SendTo, v4.other), to(probe.SendTo, v4.first), call(probe.RecvFrom), call(probe.RecvFrom))),
			changesPrimary, []string{resolverFirst, resolverOther, resolverFirst}, "",
			counts{udp4(loader.Steered): 3, udp4(loader.Restored): 3}},
		// limit: to the resolver, loopback means the primary nameserver of now. The answer
		// is the new one's, shown as from the old, until the socket connects again.
		{"another primary nameserver: a connected socket asks the new one", stateUp, probe.V4,
			conversation(connect, unnamed), changesPrimary, []string{resolverFirst, resolverOther}, "",
			counts{udp4(loader.Steered): 1, udp4(loader.Restored): 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := worldIn(t, tc.from, 0)
			spec := probe.Spec{Family: tc.family, Owner: probe.OwnerNone, Steps: tc.steps}
			var result probe.Result
			got := w.counted(t, func() {
				result = w.probe.RunPaused(t, spec, func() { tc.change(t, w) })
			})
			var texts []string
			for _, a := range result.Answers {
				texts = append(texts, a.Text)
			}
			if diff := cmp.Diff(tc.texts, texts); diff != "" || result.Errno != tc.errno {
				t.Errorf("errno %q, want %q; answers (-want +got):\n%s", result.Errno, tc.errno, diff)
			}
			if diff := cmp.Diff(tc.counts, got); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDualStackReconnect states a limit: the datapath can give a socket the source that
// it would have had only by binding it, and the kernel makes an AF_INET6 socket that is
// bound to an IPv6 address deaf to IPv4 for good.
func TestDualStackReconnect(t *testing.T) {
	for _, tc := range []struct {
		state state
		errno string
	}{
		{stateAbsent, ""},
		{stateUp, "ENETUNREACH"}, // limit: as told above
	} {
		t.Run(string(tc.state), func(t *testing.T) {
			w := worldIn(t, tc.state, 0)
			got := w.probe.Run(t, probe.Spec{Family: probe.V6, Owner: probe.OwnerNone, Steps: steps(
				to(probe.Connect, namesOf(probe.V6).first), call(probe.Disconnect), to(probe.Connect, namesOf(probe.V4).first),
			)})
			if got.Errno != tc.errno {
				t.Errorf("errno %q, want %q", got.Errno, tc.errno)
			}
		})
	}
}
