// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
)

// Loaded is what is known of a pinned datapath.
type Loaded struct {
	CgroupID uint64 `json:"cgroup_id"`
	Cgroup   string `json:"cgroup,omitempty"` // the directory; empty if it is gone
	Port     uint16 `json:"port"`
	Layout   uint32 `json:"layout"`
	// Only and Except are those of Options.
	Only   []netip.Prefix `json:"only,omitempty"`
	Except []netip.Prefix `json:"except,omitempty"`
	Hooks  []Hook         `json:"hooks"`
	// Counts are the verdicts since it was loaded.
	Counts []Count `json:"counts"`
	// Leaks are the packets that left unsteered since CountLeaks; nil if nobody counts.
	Leaks []LeakCount `json:"leaks"`
	// Problem says what is wrong with it, in one line; empty if nothing is. What could
	// not be found out about a damaged datapath is zero.
	Problem string `json:"problem,omitempty"`
}

// Hook is one attach point of a loaded datapath.
type Hook struct {
	Name     string `json:"name"`
	Attached bool   `json:"attached"`
	Link     bool   `json:"link"`    // by a link; else by the legacy call
	Program  uint32 `json:"program"` // the kernel's id
	Tag      string `json:"tag"`     // the kernel's hash over the program
}

// List describes every datapath that is pinned on a BPF filesystem, in the order of the
// directory, also damaged ones and those of other versions. It changes nothing, and
// waits only for who is publishing or removing one at that moment.
func List(bpffs string) ([]Loaded, error) {
	opts := Options{BPFFS: bpffs}
	unlock, err := opts.lock(unix.LOCK_SH)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	entries, err := os.ReadDir(opts.root())
	if err != nil {
		return nil, fmt.Errorf("list datapaths: %w", err)
	}
	var all []Loaded
	for _, entry := range entries {
		if id, suffix, ours := stateName(entry.Name()); ours && suffix == "" {
			all = append(all, describe(opts, id))
		}
	}
	return all, nil
}

// describe opens as much as can be opened.
func describe(opts Options, id uint64) Loaded {
	out := Loaded{CgroupID: id}
	d := &Datapath{opts: opts, id: id}
	defer d.Close()
	var gone error
	d.cgroup, gone = openCgroupID(id)
	if gone == nil {
		out.Cgroup = d.cgroup.Name()
		d.opts.Cgroup = out.Cgroup
	}
	problem := d.openPins()
	if gone != nil && problem == nil {
		problem = gone
	}
	if problem != nil {
		out.Problem = problem.Error()
	}
	if about, err := d.about(); err == nil {
		out.Layout, out.Port = about.Layout, uint16(about.Port)
	}
	out.Only, out.Except = d.opts.Only, d.opts.Except
	for _, a := range d.attachments {
		out.Hooks = append(out.Hooks, a.describe())
	}
	if d.maps[bpf.SteerMapSteerVerdict] != nil {
		out.Counts, _ = d.Counts() // of another layout: none
		out.Leaks, _ = d.LeakCounts()
	}
	return out
}

func (a *attachment) describe() Hook {
	h := Hook{Name: a.hook.name, Link: a.link != nil}
	id, attached, _ := a.runs()
	h.Program, h.Attached = uint32(id), attached
	if info, err := a.program.Info(); err == nil {
		h.Tag = info.Tag
	}
	return h
}
