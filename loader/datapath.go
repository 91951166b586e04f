// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Datapath is a loaded datapath: programs, maps and attachments. It is safe for
// concurrent use. Close it; that detaches only what is not pinned.
type Datapath struct {
	opts   Options
	cgroup *os.File
	id     uint64
	seams  seams
	maps   map[string]*ebpf.Map
	state  os.FileInfo // of the directory of its pins; nil if it has none
	late   latecomers

	mu          sync.Mutex    // guards what follows
	attachments []*attachment // in the order of hooks
	use         *os.File      // holds the lock of Use; nil without
}

// Load loads the programs, attaches them to the cgroup and, if opts names a BPF
// filesystem, pins all of it. It is all or nothing: an error leaves nothing behind. It
// first removes what others left there that died half-way, see Sweep.
//
// Returns ErrLoaded if a datapath is already pinned for this cgroup, ErrNotCgroup2,
// ErrNotBPFFS, ErrCgroupGone, and ErrExclusive if a program attached by others allows
// no company. If Preflight finds a reason, the error is a *PreflightError too. Needs CAP_BPF,
// CAP_PERFMON and CAP_NET_ADMIN.
func Load(opts Options) (*Datapath, error) { return loadWith(opts, seams{}) }

// loadWith lets a test choose the legacy call, and die at any stage.
func loadWith(opts Options, s seams) (*Datapath, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	d, err := newDatapath(opts, s)
	if err != nil {
		return nil, err
	}
	if err := d.load(); err != nil {
		d.Close()
		return nil, explain(opts, err)
	}
	return d, nil
}

func newDatapath(opts Options, s seams) (*Datapath, error) {
	cgroup, id, err := openCgroup(opts.Cgroup)
	if err != nil {
		return nil, err
	}
	return &Datapath{opts: opts, cgroup: cgroup, id: id, seams: s}, nil
}

func (d *Datapath) load() error {
	if !d.Pinned() {
		return d.create("")
	}
	unlock, err := d.opts.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := d.opts.sweep(); err != nil {
		return err
	}
	final, aside := d.opts.stateDir(d.id), d.opts.asideDir(d.id)
	if err := d.makeWay(final); err != nil {
		return fmt.Errorf("load into %s: %w", d.opts.Cgroup, err)
	}
	err = makeState(aside)
	if err == nil {
		err = d.create(aside)
	}
	if err == nil {
		d.state, err = os.Stat(aside)
	}
	if err == nil {
		d.seams.stage("pinned")
		// From here on the datapath is loaded. A rename within one filesystem has no
		// half-way; should it fail, what follows undoes everything.
		err = os.Rename(aside, final)
	}
	if err != nil {
		return errors.Join(err, tearDown(aside, d.cgroup))
	}
	d.seams.stage("published")
	return nil
}

// makeWay returns ErrLoaded if there is a datapath. One that is not attached is what an
// Unload left that died, or is about to remove: it is unloaded, with its sockets.
func (d *Datapath) makeWay(final string) error {
	if _, err := os.Stat(final); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	old, err := newDatapath(d.opts, d.seams)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := old.openPins(); !errors.Is(err, ErrDetached) {
		return ErrLoaded
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	err = old.detach(requests)
	_, returnErr := old.Return()
	return errors.Join(err, returnErr, tearDown(final, d.cgroup))
}

// Open adopts the datapath that is pinned for the cgroup. opts.Port, Only and Except
// are taken from what is loaded.
//
// Returns ErrNotLoaded if there is none; ErrLayout if another version made it, or
// somebody has damaged it; ErrDetached if not all of it is attached, because an Unload
// is under way or died, or somebody detached it; ErrCgroupGone if the cgroup was removed.
func Open(opts Options) (*Datapath, error) {
	d, err := newDatapath(opts, seams{})
	if err != nil {
		return nil, err
	}
	if err := d.open(); err != nil {
		d.Close()
		return nil, fmt.Errorf("open datapath of %s: %w", opts.Cgroup, err)
	}
	return d, nil
}

// Options returns what the datapath was loaded with.
func (d *Datapath) Options() Options { return d.opts }

// Port returns the target's port.
func (d *Datapath) Port() uint16 { return d.opts.port() }

// Cgroup returns the directory of the cgroup.
func (d *Datapath) Cgroup() string { return d.opts.Cgroup }

// Pinned tells whether the datapath outlives the process.
func (d *Datapath) Pinned() bool { return d.opts.BPFFS != "" }

// Close gives up the process's references. An unpinned datapath goes with the last of
// them; Unload ends it with more care.
func (d *Datapath) Close() {
	d.late.close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.attachments {
		if a.link == nil && !d.Pinned() {
			_ = a.detach() // nothing else would ever: there is no link that goes with us
		}
		a.close()
	}
	d.attachments = nil
	for _, m := range d.maps {
		_ = m.Close()
	}
	_ = d.cgroup.Close()
	if d.use != nil {
		_ = d.use.Close()
		d.use = nil
	}
}
