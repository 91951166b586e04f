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
// Returns ErrNotLoaded, or ErrLayout if the maps are not those that the new programs
// expect: then unload and load again.
func Upgrade(opts Options) (changed bool, err error) {
	return upgradeWith(opts, (*attachment).update)
}

// upgradeWith lets a test make an update fail.
func upgradeWith(opts Options, update func(*attachment, *ebpf.Program) error) (changed bool, err error) {
	cgroup, id, err := openCgroup(opts.Cgroup)
	if err != nil {
		return false, err
	}
	d := &Datapath{opts: opts, cgroup: cgroup, id: id}
	defer d.closeFiles()
	unlock, err := opts.lock(unix.LOCK_EX)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := d.openPins(); err != nil {
		return false, fmt.Errorf("upgrade %s: %w", opts.Cgroup, err)
	}
	objects, err := d.loadBeside()
	if err != nil {
		return false, fmt.Errorf("upgrade %s: %w", opts.Cgroup, err)
	}
	defer objects.Close()
	if same, err := d.runs(objects); same || err != nil {
		return false, err
	}
	return true, d.replace(objects, update)
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
	return objects, err
}

// runs tells whether the programs that are attached are the new ones.
func (d *Datapath) runs(objects *ebpf.Collection) (bool, error) {
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

// replace updates hook by hook. Old and new programs work on the same maps, so a mix
// of both is sound; if one update fails, those before it are taken back.
func (d *Datapath) replace(objects *ebpf.Collection, update func(*attachment, *ebpf.Program) error) error {
	old := make([]*ebpf.Program, len(d.attachments))
	for i, a := range d.attachments {
		old[i] = a.program
		if err := update(a, objects.Programs[a.hook.program]); err != nil {
			for j := range i {
				err = errors.Join(err, d.attachments[j].update(old[j]))
			}
			return fmt.Errorf("upgrade %s: %w", d.opts.Cgroup, goneIfDefunct(err))
		}
	}
	var errs []error
	for i, a := range d.attachments {
		objects.DetachProgram(a.hook.program) // now the attachment's
		_ = old[i].Close()
		// The hook runs the new program already; only a legacy detach needs the pin.
		errs = append(errs, repin(a.program, progPin(d.opts.stateDir(d.id), a.hook)))
	}
	return errors.Join(errs...)
}

// repin puts a program in the place of an older one, in one step.
func repin(program *ebpf.Program, path string) error {
	next := path + "_new"
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("pin program: %w", err)
	}
	if err := program.Pin(next); err != nil {
		return fmt.Errorf("pin program: %w", err)
	}
	return os.Rename(next, path)
}

// goneIfDefunct says what ENOLINK means: the cgroup was removed, its links with it.
func goneIfDefunct(err error) error {
	if errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("%w: %w", ErrCgroupGone, err)
	}
	return err
}
