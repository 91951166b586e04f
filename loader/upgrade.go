// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Upgrade replaces the programs of the pinned datapath by those of this version. Maps,
// tags, counters and scopes stay; at no moment is a hook without program. It returns
// false if these very programs are loaded already.
//
// Returns ErrNotLoaded, ErrDetached, ErrCgroupGone, or ErrLayout if the maps are not
// those that the new programs expect: then unload and load again.
func Upgrade(opts Options) (changed bool, err error) {
	return upgradeWith(opts, (*attachment).update, seams{})
}

// updater puts a program on a hook in the place of another.
type updater func(*attachment, *ebpf.Program) error

// upgradeWith lets a test make an update fail, and die at any stage.
func upgradeWith(opts Options, update updater, s seams) (changed bool, err error) {
	d, err := newDatapath(opts, s)
	if err != nil {
		return false, err
	}
	defer d.Close()
	if changed, err = d.upgrade(update); err != nil {
		return false, explain(opts, fmt.Errorf("upgrade %s: %w", opts.Cgroup, err))
	}
	return changed, nil
}

func (d *Datapath) upgrade(update updater) (changed bool, err error) {
	if !d.Pinned() {
		return false, ErrNotLoaded
	}
	unlock, err := d.opts.lock(unix.LOCK_EX)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := d.openPins(); err != nil {
		return false, err
	}
	objects, err := d.loadBeside()
	if err != nil {
		return false, err
	}
	defer objects.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.endUpgrade(); err != nil {
		return false, err
	}
	counting, err := d.upgradeCounting(d.opts.stateDir(d.id))
	if err != nil {
		return false, err
	}
	if same, err := d.isUpToDate(objects); same || err != nil {
		return counting, err
	}
	return true, d.replace(objects, update)
}

// endUpgrade does what an Upgrade has left to do that died: what runs gets the pin of what
// it has replaced, and what does not run has none.
func (d *Datapath) endUpgrade() error {
	for _, a := range d.attachments {
		path := progPin(d.opts.stateDir(d.id), a.hook)
		var err error
		if a.isNext {
			err = os.Rename(path+nextSuffix, path)
		} else {
			err = os.RemoveAll(path + nextSuffix)
		}
		if err != nil {
			return fmt.Errorf("pin program %s: %w", a.hook.name, err)
		}
		a.isNext = false
	}
	return nil
}

// loadBeside loads this version's programs on the maps that are there.
func (d *Datapath) loadBeside() (*ebpf.Collection, error) {
	// A new seed is fine: numbers that were allotted keep their meaning.
	spec, err := d.spec(rand.Uint32())
	if err != nil {
		return nil, err
	}
	objects, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: d.maps})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return nil, fmt.Errorf("%w: %w", ErrLayout, err)
	}
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	return objects, nil
}

// isUpToDate tells whether the programs that are attached are the new ones. The tag is
// the kernel's hash over the instructions.
func (d *Datapath) isUpToDate(objects *ebpf.Collection) (bool, error) {
	for _, a := range d.attachments {
		loaded, err := a.program.Info()
		if err != nil {
			return false, fmt.Errorf("inspect %s: %w", a.hook.name, err)
		}
		fresh, err := objects.Programs[a.hook.program].Info()
		if err != nil {
			return false, fmt.Errorf("inspect %s: %w", a.hook.name, err)
		}
		if loaded.Tag != fresh.Tag {
			return false, nil
		}
	}
	return true, nil
}

// change is one hook that runs the next program already.
type change struct {
	*attachment
	old *ebpf.Program
}

// replace updates hook by hook. Old and new programs work on the same maps, so a mix
// of both is sound; if one update fails, those before it are taken back. The next
// program is pinned before it is attached: whenever we die, what runs has a pin.
func (d *Datapath) replace(objects *ebpf.Collection, update updater) error {
	dir := d.opts.stateDir(d.id)
	var done []change
	for _, a := range d.attachments {
		old, next := a.program, objects.Programs[a.hook.program]
		err := next.Pin(progPin(dir, a.hook) + nextSuffix)
		if err != nil {
			err = fmt.Errorf("pin program %s: %w", a.hook.name, err)
		} else {
			d.seams.stage("update " + a.hook.name)
			err = update(a, next)
		}
		if err != nil {
			err = d.goneIfDefunct(err)
			return errors.Join(err, os.RemoveAll(progPin(dir, a.hook)+nextSuffix), takeBack(dir, done))
		}
		d.seams.stage("updated " + a.hook.name)
		done = append(done, change{a, old})
	}
	var errs []error
	for _, c := range done {
		objects.DetachProgram(c.hook.program) // now the attachment's
		_ = c.old.Close()
		path := progPin(dir, c.hook)
		if err := os.Rename(path+nextSuffix, path); err != nil {
			errs = append(errs, fmt.Errorf("pin program %s: %w", c.hook.name, err))
		}
		d.seams.stage("renamed " + c.hook.name)
	}
	return errors.Join(errs...)
}

// takeBack puts the old programs on their hooks again. Where that fails, the pin of
// what runs now stays too.
func takeBack(dir string, done []change) error {
	var errs []error
	for _, c := range done {
		err := c.update(c.old)
		if err == nil {
			err = os.Remove(progPin(dir, c.hook) + nextSuffix)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// goneIfDefunct says what ENOLINK means: the link has no cgroup any more.
func (d *Datapath) goneIfDefunct(err error) error {
	if !errors.Is(err, unix.ENOLINK) {
		return err
	}
	if sameFile(d.cgroup, d.opts.Cgroup) {
		return fmt.Errorf("%w: %w", ErrDetached, err)
	}
	return fmt.Errorf("%w: %w", ErrCgroupGone, err)
}
