// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/agentstatus"
)

// agentTimeout is how long an agent that hangs keeps the status from its reader.
const agentTimeout = 2 * time.Second

// askAgent asks the node's agent of its pods. It is nil without an agent.
func askAgent(ctx context.Context, socket string) (*agentstatus.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	s, err := agentstatus.Get(ctx, agentstatus.Socket(socket))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) { // none runs, or it was killed
		return nil, nil
	}
	if err != nil {
		return nil, withHint(fmt.Errorf("status of pods: %w", err), "if the agent hangs, pods are passed by within 2 s; --agent-socket= asks none")
	}
	return &s, nil
}

// printPods prints the pods of a node.
func printPods(w io.Writer, agent *agentstatus.Status) error {
	if agent == nil {
		return nil
	}
	steered := 0
	for _, p := range agent.Pods {
		if p.Resolver != "" {
			steered++
		}
	}
	cluster := "stands alone"
	if agent.Cluster != nil {
		cluster = "the API server has told of its pods"
		if !*agent.Cluster {
			cluster = "the API server has not told of its pods yet"
		}
	}
	fmt.Fprintf(w, "\nagent (process %d) steers %d of %d pods; %s\n", agent.PID, steered, len(agent.Pods), cluster)
	if err := printSources(w, agent.Sources); err != nil {
		return err
	}
	if len(agent.Pods) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nNAMESPACE\tPOD\tRESOLVER\tNETNS\tLISTENERS\tNAMESERVERS\tTABLE\tCACHE\tFORWARD\tFAILURE\tLEAKS\tWHY")
	for _, p := range agent.Pods {
		why := p.Reason
		if p.Error != "" {
			why = "FAILED: " + strings.ReplaceAll(p.Error, "\n", "; ")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", orDash(p.Namespace), orDash(cmp.Or(p.Name, p.UID)), cmp.Or(p.Resolver, "none"),
			strings.Trim(p.NetNS, "net:[]"), list(withoutTags(p.Listeners)), list(p.Nameservers), counts(p), why)
	}
	return t.Flush()
}

// printSources prints the clusters and meshes whose names are answered.
func printSources(w io.Writer, all []agentstatus.Source) error {
	if len(all) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nSOURCE\tOF\tNAMES\tAGE\tWHY")
	for _, s := range all {
		names, age := "served", "-"
		if !s.Synced {
			names = "not told yet"
		}
		if s.Age > 0 {
			age = time.Duration(s.Age * float64(time.Second)).Round(time.Second).String()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", s.Source, s.Of, names, age, orDash(strings.ReplaceAll(s.Error, "\n", "; ")))
	}
	return t.Flush()
}

// counts are the columns of what was answered from where, and of leaks.
func counts(p agentstatus.Pod) string {
	answered, leaks := "-\t-\t-\t-", "-"
	if a := p.Answered; a != nil {
		answered = fmt.Sprintf("%d\t%d\t%d\t%d", a.Table, a.Cache+a.Stale, a.Forward, a.Failure)
	}
	if p.Leaks != nil {
		leaks = strconv.FormatUint(*p.Leaks, 10)
	}
	return answered + "\t" + leaks
}

// withoutTags leaves out the listeners beside, which only repeat the port.
func withoutTags(all []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(all, func(a netip.AddrPort) bool { return a.Addr().IsUnspecified() })
}

func orDash(text string) string { return cmp.Or(text, "-") }

func list[T fmt.Stringer](all []T) string {
	var texts []string
	for _, one := range all {
		texts = append(texts, one.String())
	}
	return orDash(strings.Join(texts, ","))
}
