// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
)

// mostKinds bounds what is remembered of leaks that differ in who or where to; the
// counters know no bound.
const mostKinds = 1000

// leakKind is what is told once.
type leakKind struct {
	Reason  loader.LeakReason `json:"reason"`
	Family  string            `json:"family"`
	Proto   string            `json:"proto"`
	Server  netip.Addr        `json:"server"`
	UID     uint32            `json:"uid"`
	Command string            `json:"command,omitempty"`
	Cgroup  string            `json:"cgroup,omitempty"`
}

// leakSummary is how a watch ends.
type leakSummary struct {
	Seconds float64            `json:"seconds"`
	Packets []loader.LeakCount `json:"packets"`
	Kinds   []leakTotal        `json:"kinds"`
	Untold  uint64             `json:"untold"` // sockets that are in no kind: they came too fast, or were too many
}

type leakTotal struct {
	leakKind
	Sockets uint64 `json:"sockets"`
}

// leakReport is what is known so far.
type leakReport struct {
	out    io.Writer
	asJSON bool

	mu     sync.Mutex
	kinds  map[leakKind]uint64
	untold uint64
	err    error // of writing
}

// leaksCommand watches. It exits with 1 if anything leaked, as a check that failed.
func leaksCommand(ctx context.Context, e env, args []string) error {
	fs := newFlags("leaks")
	cgroup := fs.String("cgroup", "", "`directory` of the cgroup whose datapath is watched (default every one that is loaded)")
	bpffs := fs.String("bpffs", loader.DefaultBPFFS, "BPF filesystem that holds the pins: its mount `point`")
	period := fs.Duration("for", 0, "end after this `time`, such as 10s or 5m; 0s is at Ctrl-C")
	asJSON := fs.Bool("json", false, "print a line of JSON for each kind of leak, and one with the totals")
	if err := parse(e, fs, args, false); err != nil {
		return err
	}
	if *period < 0 {
		return usageError{fmt.Sprintf("leaks: --for=%v: want a time ahead", *period), "leaks"}
	}
	if err := needRoot(); err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer cancel()
	watches, err := watchLeaks(*bpffs, *cgroup)
	if err != nil {
		return err
	}
	defer closeAll(watches)
	if *period > 0 {
		ctx, cancel = context.WithTimeout(ctx, *period)
		defer cancel()
	}
	fmt.Fprintf(e.stderr, "dnsteer: watching %d datapath(s) for packets to port 53 that leave unsteered; Ctrl-C ends\n", len(watches))
	report := &leakReport{out: e.stdout, asJSON: *asJSON, kinds: make(map[leakKind]uint64)}
	summary, err := report.watch(ctx, watches)
	if err == nil {
		err = report.end(summary)
	}
	if err == nil && len(summary.Packets) > 0 {
		err = exitCode(exitFailed)
	}
	return err
}

// watchLeaks begins to watch one datapath, or all.
func watchLeaks(bpffs, cgroup string) ([]*loader.LeakWatch, error) {
	cgroups := []string{cgroup}
	if cgroup == "" {
		loaded, err := loader.List(bpffs)
		if err != nil {
			return nil, err
		}
		cgroups = nil
		for _, l := range loaded {
			if l.Cgroup != "" {
				cgroups = append(cgroups, l.Cgroup)
			}
		}
		if len(cgroups) == 0 {
			return nil, withHint(errors.New("watch for leaks: nothing is loaded"), "'dnsteer run' or 'dnsteer load' loads; what 'dnsteer exec' loads nobody else sees")
		}
	}
	var watches []*loader.LeakWatch
	for _, dir := range cgroups {
		watch, err := watchOne(bpffs, dir)
		if err != nil {
			closeAll(watches)
			return nil, err
		}
		watches = append(watches, watch)
	}
	return watches, nil
}

func watchOne(bpffs, cgroup string) (*loader.LeakWatch, error) {
	datapath, err := loader.Open(loader.Options{Cgroup: cgroup, BPFFS: bpffs})
	if err != nil {
		return nil, err
	}
	defer datapath.Close()
	return datapath.WatchLeaks()
}

func closeAll(watches []*loader.LeakWatch) {
	for _, w := range watches {
		w.Close()
	}
}

// watch tells of leaks until ctx ends, and sums up.
func (r *leakReport) watch(ctx context.Context, watches []*loader.LeakWatch) (leakSummary, error) {
	begun := time.Now()
	ended := make(chan error, len(watches))
	for _, w := range watches {
		go func() { ended <- r.follow(w) }()
	}
	stop := context.AfterFunc(ctx, func() {
		for _, w := range watches {
			w.Stop()
		}
	})
	defer stop()
	var errs []error
	for range watches {
		errs = append(errs, <-ended)
	}
	summary := leakSummary{Seconds: time.Since(begun).Seconds(), Packets: []loader.LeakCount{}, Kinds: []leakTotal{}, Untold: r.untold}
	for _, w := range watches {
		packets, err := w.Counts()
		untold, untoldErr := w.Untold()
		errs = append(errs, err, untoldErr)
		summary.Packets = append(summary.Packets, packets...)
		summary.Untold += untold
	}
	for kind, sockets := range r.kinds {
		summary.Kinds = append(summary.Kinds, leakTotal{kind, sockets})
	}
	slices.SortFunc(summary.Kinds, func(a, b leakTotal) int {
		return cmp.Or(cmp.Compare(b.Sockets, a.Sockets), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Command, b.Command), a.Server.Compare(b.Server))
	})
	return summary, errors.Join(append(errs, r.err)...)
}

// follow tells of the leaks of one watch until that is stopped.
func (r *leakReport) follow(w *loader.LeakWatch) error {
	for {
		leak, err := w.Next()
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		r.add(leak)
	}
}

// add tells of a leak if it is the first of its kind.
func (r *leakReport) add(l loader.Leak) {
	kind := leakKind{l.Reason, l.Family, l.Proto, l.Server, l.UID, l.Command, l.Cgroup}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kinds[kind] == 0 {
		if len(r.kinds) == mostKinds {
			r.untold++
			return
		}
		if err := r.tell(l); err != nil && r.err == nil {
			r.err = err
		}
	}
	r.kinds[kind]++
}

func (r *leakReport) tell(l loader.Leak) error {
	if r.asJSON {
		return json.NewEncoder(r.out).Encode(struct {
			Leak loader.Leak `json:"leak"`
		}{l})
	}
	_, err := fmt.Fprintf(r.out, "%s: %s to %s by %s, uid %d, in %s\n", l.Reason, l.Proto, l.Server, who(l.Command, l.PID), l.UID, whichCgroup(l.Cgroup))
	return err
}

func who(command string, pid uint32) string {
	if pid == 0 {
		return "a process that has gone"
	}
	return fmt.Sprintf("%s (pid %d)", command, pid)
}

func whichCgroup(dir string) string { return cmp.Or(dir, "a cgroup that has gone") }

// end prints the totals.
func (r *leakReport) end(s leakSummary) error {
	if r.asJSON {
		return json.NewEncoder(r.out).Encode(struct {
			Summary leakSummary `json:"summary"`
		}{s})
	}
	if len(s.Packets) == 0 {
		_, err := fmt.Fprintf(r.out, "nothing leaked in %.1f s\n", s.Seconds)
		return err
	}
	t := tabwriter.NewWriter(r.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nSOCKETS\tREASON\tPROTO\tSERVER\tCOMMAND\tUID\tCGROUP")
	for _, k := range s.Kinds {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%d\t%s\n", k.Sockets, k.Reason, k.Proto, k.Server, cmp.Or(k.Command, "?"), k.UID, whichCgroup(k.Cgroup))
	}
	if s.Untold > 0 {
		fmt.Fprintf(t, "%d\t(more, which came too fast or were too many to tell apart)\n", s.Untold)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printLeaks(r.out, s.Packets)
}

// printLeaks prints counters as status and leaks show them.
func printLeaks(w io.Writer, counts []loader.LeakCount) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nLEAK\tFAMILY\tPROTO\tPACKETS\tMEANING")
	for _, c := range counts {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", c.Reason, c.Family, c.Proto, c.Packets, c.Reason.Meaning())
	}
	return t.Flush()
}
