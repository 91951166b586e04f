// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
)

// Datapath is a loaded datapath: programs, maps and attachments. It is safe for
// concurrent use. Close it; that detaches only what is not pinned.
type Datapath struct {
	opts        Options
	cgroup      *os.File
	id          uint64
	maps        map[string]*ebpf.Map
	attachments []*attachment // in the order of hooks
}

// Load loads the programs, attaches them to the cgroup and, if opts names a BPF
// filesystem, pins all of it. It is all or nothing: an error leaves nothing behind.
//
// Returns ErrLoaded if a datapath is already pinned for this cgroup, ErrNotCgroup2,
// ErrNotBPFFS. Needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
func Load(opts Options) (*Datapath, error) {
	cgroup, id, err := openCgroup(opts.Cgroup)
	if err != nil {
		return nil, err
	}
	d := &Datapath{opts: opts, cgroup: cgroup, id: id}
	if err := d.load(); err != nil {
		d.closeFiles()
		return nil, err
	}
	return d, nil
}

func (d *Datapath) load() error {
	if d.opts.BPFFS == "" {
		return d.create("")
	}
	unlock, err := d.opts.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	final, aside := d.opts.stateDir(d.id), d.opts.asideDir(d.id)
	if _, err := os.Stat(final); err == nil {
		return fmt.Errorf("load into %s: %w", d.opts.Cgroup, ErrLoaded)
	}
	// What a loader left that died half-way. Nobody else can be at it: we hold the lock.
	if err := os.RemoveAll(aside); err != nil {
		return fmt.Errorf("remove unfinished state: %w", err)
	}
	if err := makeState(aside); err != nil {
		return errors.Join(err, os.RemoveAll(aside))
	}
	err = d.create(aside)
	if err == nil {
		// From here on the datapath is loaded. A rename within one filesystem has no
		// half-way; should it fail, what follows undoes everything.
		err = os.Rename(aside, final)
	}
	if err != nil {
		return errors.Join(err, d.detach(everything), os.RemoveAll(aside))
	}
	return nil
}

// create loads, attaches, and pins to dir unless that is empty.
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

// attachHook takes over program.
func (d *Datapath) attachHook(h hook, program *ebpf.Program, dir string) error {
	a, err := attach(d.cgroup, h, program)
	if err != nil {
		_ = program.Close()
		return err
	}
	d.attachments = append(d.attachments, a)
	if dir == "" {
		return nil
	}
	if err := program.Pin(progPin(dir, h)); err != nil {
		return fmt.Errorf("pin program %s: %w", h.name, err)
	}
	if a.link == nil {
		return nil
	}
	if err := a.link.Pin(linkPin(dir, h)); err != nil {
		return fmt.Errorf("pin link %s: %w", h.name, err)
	}
	return nil
}

func mapNames() []string {
	return []string{
		bpf.SteerMapSteerAbout, bpf.SteerMapSteerEnrolled, bpf.SteerMapSteerNameserv, bpf.SteerMapSteerOrigin,
		bpf.SteerMapSteerScope, bpf.SteerMapSteerTag, bpf.SteerMapSteerVerdict,
	}
}

// Open adopts the datapath that is pinned for the cgroup. opts.Port, Only and Except
// are taken from what is loaded.
//
// Returns ErrNotLoaded if there is none, ErrLayout if another version made it, and
// ErrCgroupGone if its links are dead.
func Open(opts Options) (*Datapath, error) {
	cgroup, id, err := openCgroup(opts.Cgroup)
	if err != nil {
		return nil, err
	}
	d := &Datapath{opts: opts, cgroup: cgroup, id: id}
	if err := d.open(); err != nil {
		d.closeFiles()
		return nil, fmt.Errorf("open datapath of %s: %w", opts.Cgroup, err)
	}
	return d, nil
}

func (d *Datapath) open() error {
	unlock, err := d.opts.lock(unix.LOCK_SH)
	if errors.Is(err, os.ErrNotExist) {
		return ErrNotLoaded
	}
	if err != nil {
		return err
	}
	defer unlock()
	return d.openPins()
}

// openPins opens what is pinned; the caller holds the lock.
func (d *Datapath) openPins() error {
	dir := d.opts.stateDir(d.id)
	if _, err := os.Stat(dir); err != nil {
		return ErrNotLoaded
	}
	d.maps = make(map[string]*ebpf.Map)
	for _, name := range mapNames() {
		m, err := ebpf.LoadPinnedMap(mapPin(dir, name), nil)
		if err != nil {
			return fmt.Errorf("open map %s: %w: %w", name, ErrLayout, err)
		}
		d.maps[name] = m
	}
	if err := d.checkAbout(); err != nil {
		return err
	}
	for _, h := range hooks() {
		program, err := ebpf.LoadPinnedProgram(progPin(dir, h), nil)
		if err != nil {
			return fmt.Errorf("open program %s: %w", h.name, err)
		}
		a := &attachment{hook: h, cgroup: d.cgroup, program: program}
		d.attachments = append(d.attachments, a)
		a.link, err = link.LoadPinnedLink(linkPin(dir, h), nil)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // none: attached by the legacy call
			return fmt.Errorf("open link %s: %w", h.name, err)
		}
	}
	return nil
}

// Port returns the target's port.
func (d *Datapath) Port() uint16 { return d.opts.port() }

// Cgroup returns the directory of the cgroup.
func (d *Datapath) Cgroup() string { return d.opts.Cgroup }

// Pinned tells whether the datapath outlives the process.
func (d *Datapath) Pinned() bool { return d.opts.BPFFS != "" }

// Close gives up the process's references. An unpinned datapath goes with the last of
// them; Unload ends it with more care.
func (d *Datapath) Close() {
	d.closeFiles()
}

// detach takes our programs off the hooks that match.
func (d *Datapath) detach(match func(*attachment) bool) error {
	var errs []error
	kept := d.attachments[:0]
	for _, a := range d.attachments {
		if !match(a) {
			kept = append(kept, a)
			continue
		}
		errs = append(errs, a.detach())
		a.close()
	}
	d.attachments = kept
	return errors.Join(errs...)
}

func everything(*attachment) bool { return true }

func (d *Datapath) closeFiles() {
	for _, a := range d.attachments {
		a.close()
	}
	for _, m := range d.maps {
		_ = m.Close()
	}
	_ = d.cgroup.Close()
}
