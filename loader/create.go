// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/dnsteer/dnsteer/bpf"
)

// create loads, attaches, and pins to dir unless that is empty. What it has pinned
// before it fails is the caller's to tear down.
func (d *Datapath) create(dir string) error {
	spec, err := d.spec(rand.Uint32())
	if err != nil {
		return err
	}
	objects, err := ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	defer objects.Close() // what was taken out of it stays open
	if err := d.takeMaps(objects, dir); err != nil {
		return err
	}
	if err := d.configure(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range hooks() {
		if err := d.attachHook(h, objects.DetachProgram(h.program), dir); err != nil {
			return errors.Join(err, d.detach(everything))
		}
	}
	return nil
}

// spec returns the programs with their load-time settings.
func (d *Datapath) spec(seed uint32) (*ebpf.CollectionSpec, error) {
	// Needed before 5.11, where maps and programs count against RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise RLIMIT_MEMLOCK: %w", err)
	}
	spec, err := bpf.LoadSteer()
	if err != nil {
		return nil, fmt.Errorf("read embedded programs: %w", err)
	}
	// Without a layout the programs fall back on the stable context; Preflight tells.
	layout, _ := kernelLayout()
	err = errors.Join(
		spec.Variables[bpf.SteerVarSteerLayout].Set(layout),
		spec.Variables[bpf.SteerVarSteerPort].Set(d.opts.port()),
		spec.Variables[bpf.SteerVarSteerSeed].Set(seed),
	)
	if err != nil {
		return nil, fmt.Errorf("set load-time settings: %w", err)
	}
	if d.seams.alter != nil {
		d.seams.alter(spec)
	}
	return spec, nil
}

func (d *Datapath) takeMaps(objects *ebpf.Collection, dir string) error {
	d.maps = make(map[string]*ebpf.Map)
	for _, name := range mapNames() {
		d.maps[name] = objects.DetachMap(name)
		if dir == "" {
			continue
		}
		if err := d.maps[name].Pin(mapPin(dir, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// attachHook takes over program. The program is pinned first: one that was attached by
// the legacy call can only be detached by who has it.
func (d *Datapath) attachHook(h hook, program *ebpf.Program, dir string) error {
	if dir != "" {
		if err := program.Pin(progPin(dir, h)); err != nil {
			_ = program.Close()
			return fmt.Errorf("pin program %s: %w", h.name, err)
		}
	}
	d.seams.stage("attach " + h.name)
	a, err := attach(d.cgroup, h, program, d.seams.legacy)
	if err != nil {
		_ = program.Close()
		return err
	}
	d.attachments = append(d.attachments, a)
	d.seams.stage("attached " + h.name)
	if dir == "" || a.link == nil {
		return nil
	}
	if err := a.link.Pin(linkPin(dir, h)); err != nil {
		return fmt.Errorf("pin link %s: %w", h.name, err)
	}
	return nil
}

func mapNames() []string {
	return []string{
		bpf.SteerMapSteerAbout, bpf.SteerMapSteerEnrolled, bpf.SteerMapSteerHeart, bpf.SteerMapSteerLast,
		bpf.SteerMapSteerNameserv, bpf.SteerMapSteerOrigin, bpf.SteerMapSteerScope, bpf.SteerMapSteerTag,
		bpf.SteerMapSteerVerdict, bpf.SteerMapSteerWatch,
	}
}

// detach takes our programs off the hooks that match; the attachments stay ours to
// close. The caller holds mu.
func (d *Datapath) detach(match func(*attachment) bool) error {
	var errs []error
	for _, a := range d.attachments {
		if match(a) {
			errs = append(errs, a.detach())
		}
	}
	return errors.Join(errs...)
}

func everything(*attachment) bool { return true }
func requests(a *attachment) bool { return a.hook.request }
