// SPDX-License-Identifier: Apache-2.0

package seed

import (
	"os/exec"
	"testing"
)

// Interceptor brings the application's queries to the proxy, or does not.
type Interceptor interface {
	// Name is the mode in results.
	Name() string
	// OwnResolver tells that Install brings a resolver for the names of
	// World.Hosts; the story then runs no proxy.
	OwnResolver() bool
	// Install takes effect in the world, which is complete and whose proxy
	// listens, and is undone by tb.Cleanup.
	Install(tb testing.TB, w *World)
	// Command may change the application's command before the story starts it in
	// World.Client. By then the command has an owner that is not root and enters
	// World.Cgroup, both in its SysProcAttr; who wraps it in a program that needs
	// root moves them there.
	Command(tb testing.TB, cmd *exec.Cmd)
	// Verdicts are the decisions so far of a datapath that counts them.
	Verdicts(tb testing.TB) Verdicts
}

// Verdicts are decisions of dnsteer's datapath on calls to port 53.
type Verdicts struct {
	Steered   int // sent to the resolver
	Owner     int // the resolver's own, left alone; of ours, which shares sockets, 1 for any
	LeftAlone int // for any other reason, or refused
	Leaked    int // packets to port 53 that left the pod all the same
}

// Direct intercepts nothing.
func Direct() Interceptor { return direct{} }

// Both installs a, then b on top of it, under one name.
func Both(name string, a, b Interceptor) Interceptor { return both{name, a, b} }

type direct struct{}

func (direct) Name() string                      { return "direct" }
func (direct) OwnResolver() bool                 { return false }
func (direct) Install(testing.TB, *World)        {}
func (direct) Command(_ testing.TB, _ *exec.Cmd) {}
func (direct) Verdicts(testing.TB) Verdicts      { return Verdicts{} }

type both struct {
	name string
	a, b Interceptor
}

func (i both) Name() string      { return i.name }
func (i both) OwnResolver() bool { return i.a.OwnResolver() || i.b.OwnResolver() }

func (i both) Install(tb testing.TB, w *World) {
	tb.Helper()
	i.a.Install(tb, w)
	i.b.Install(tb, w)
}

func (i both) Command(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	i.a.Command(tb, cmd)
	i.b.Command(tb, cmd)
}

func (i both) Verdicts(tb testing.TB) Verdicts {
	tb.Helper()
	a, b := i.a.Verdicts(tb), i.b.Verdicts(tb)
	return Verdicts{a.Steered + b.Steered, a.Owner + b.Owner, a.LeftAlone + b.LeftAlone, a.Leaked + b.Leaked}
}
