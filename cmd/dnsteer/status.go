// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"
	"time"

	"github.com/dnsteer/dnsteer/cmd/internal/agentstatus"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

// state is what status shows of one datapath.
type state struct {
	loader.Loaded
	// Answers tells whether a resolver of dnsteer answers in this network namespace.
	Answers bool `json:"resolver_answers"`
	// Restarts are those of the resolver of "dnsteer run", if one runs in this network
	// namespace.
	Restarts *restarts `json:"restarts,omitempty"`
	// Agent is what the node's agent tells, if this is the datapath that it uses.
	Agent *agentstatus.Status `json:"agent,omitempty"`
}

func statusCommand(ctx context.Context, e env, args []string) error {
	fs := newFlags("status")
	bpffs := fs.String("bpffs", loader.DefaultBPFFS, "BPF filesystem that holds the pins: its mount `point`")
	socket := fs.String("agent-socket", cnirpc.DefaultSocket, "`socket` at which dnsteer-agent hears plugins, if one runs")
	asJSON := fs.Bool("json", false, "print JSON")
	if err := parse(e, fs, args, false); err != nil {
		return err
	}
	if err := needRoot(); err != nil {
		return err
	}
	agent, err := askAgent(ctx, *socket)
	if err != nil {
		return err
	}
	loaded, err := loader.List(*bpffs)
	if err != nil && !errors.Is(err, loader.ErrNotBPFFS) { // no filesystem, no pins
		return err
	}
	states := make([]state, 0, len(loaded))
	problems := false
	for _, l := range loaded {
		s := state{Loaded: l, Answers: answers(ctx, l.Port), Restarts: askRestarts(l.Port)}
		if agent != nil && agent.CgroupID == l.CgroupID {
			s.Agent = agent
		}
		states = append(states, s)
		problems = problems || l.Problem != ""
	}
	if *asJSON {
		err = printJSON(e, states)
	} else {
		err = printStates(e.stdout, states)
	}
	if err == nil && problems {
		err = exitCode(exitFailed)
	}
	return err
}

func answers(ctx context.Context, port uint16) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return resolver.Ping(ctx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)) == nil
}

func printStates(w io.Writer, states []state) error {
	if len(states) == 0 {
		_, err := fmt.Fprintln(w, "nothing is loaded ('dnsteer exec' needs nothing loaded, and leaves nothing)")
		return err
	}
	for i, s := range states {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := s.print(w); err != nil {
			return err
		}
	}
	return nil
}

func (s state) print(w io.Writer) error {
	attached := 0
	for _, h := range s.Hooks {
		if h.Attached {
			attached++
		}
	}
	cgroup, resolverIs := s.Cgroup, "none answers in this network namespace: queries go to their nameserver"
	if cgroup == "" {
		cgroup = fmt.Sprintf("gone (id %d)", s.CgroupID)
	}
	if s.Answers {
		resolverIs = "answers in this network namespace"
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "cgroup\t%s\n", cgroup)
	fmt.Fprintf(t, "target\t127.0.0.1:%d, [::1]:%d\n", s.Port, s.Port)
	if len(s.Only)+len(s.Except) > 0 {
		fmt.Fprintf(t, "nameservers\t%s\n", nameservers(loader.Options{Only: s.Only, Except: s.Except}))
	}
	fmt.Fprintf(t, "hooks\t%d of %d attached, layout %d\n", attached, len(s.Hooks), s.Layout)
	fmt.Fprintf(t, "resolver\t%s\n", resolverIs)
	if s.Restarts != nil {
		fmt.Fprintf(t, "restarts\t%v\n", s.Restarts)
	}
	fmt.Fprintf(t, "leaks\t%s\n", s.leaks())
	if s.Problem != "" {
		fmt.Fprintf(t, "problem\t%s\n", s.Problem)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(s.Counts) == 0 {
		if _, err := fmt.Fprintln(w, "no socket has called port 53 since it was loaded"); err != nil {
			return err
		}
	} else if err := s.printCounts(w); err != nil {
		return err
	}
	if len(s.Leaks) > 0 {
		if err := printLeaks(w, s.Leaks); err != nil {
			return err
		}
	}
	return printPods(w, s.Agent)
}

func (s state) printCounts(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nVERDICT\tFAMILY\tPROTO\tCALLS\tMEANING")
	for _, c := range s.Counts {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", c.Verdict, c.Family, c.Proto, c.Calls, c.Verdict.Meaning())
	}
	return t.Flush()
}

// leaks says in a few words what is known of leaks.
func (s state) leaks() string {
	switch {
	case s.Leaks == nil:
		return "not counted ('dnsteer leaks' watches, 'dnsteer run --leaks' counts)"
	case len(s.Leaks) == 0:
		return "none since they are counted"
	}
	return "see below"
}
