// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// nextSuffix is what a pin of a program has that is about to replace another.
const nextSuffix = "_next"

// open opens what is pinned and attached. After an error, d holds what could be opened.
func (d *Datapath) open() error {
	if !d.Pinned() {
		return ErrNotLoaded // an unpinned datapath is known to its process alone
	}
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
	state, err := os.Stat(dir)
	if err != nil {
		return ErrNotLoaded
	}
	d.state = state
	if err := d.openMaps(dir); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range hooks() {
		a, err := openAttachment(dir, h, d.cgroup)
		if err != nil {
			return err
		}
		d.attachments = append(d.attachments, a)
	}
	return d.checkAttached()
}

func (d *Datapath) openMaps(dir string) error {
	d.maps = make(map[string]*ebpf.Map)
	for _, name := range mapNames() {
		m, err := ebpf.LoadPinnedMap(mapPin(dir, name), nil)
		if err != nil {
			return unlessDenied("open map "+name, err)
		}
		d.maps[name] = m
	}
	if err := d.checkAbout(); err != nil {
		return err
	}
	return d.readRules()
}

// unlessDenied says what a pin that cannot be opened means: the state is not what this
// version expects, unless it is only that we may not.
func unlessDenied(what string, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, ErrLayout, err)
}

// openAttachment opens the pins of one hook. Without a link the program was attached
// by the legacy call.
func openAttachment(dir string, h hook, cgroup *os.File) (*attachment, error) {
	program, err := ebpf.LoadPinnedProgram(progPin(dir, h), nil)
	if err != nil {
		return nil, unlessDenied("open program "+h.name, err)
	}
	a := &attachment{hook: h, cgroup: cgroup, program: program}
	l, err := link.LoadPinnedLink(linkPin(dir, h), nil)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		_ = program.Close()
		return nil, unlessDenied("open link "+h.name, err)
	}
	if err == nil {
		a.link = l
	}
	if err := a.preferNext(progPin(dir, h) + nextSuffix); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// preferNext takes the program that an Upgrade pinned to be the next, if that Upgrade
// died after it had put it on the hook and before it had renamed the pin.
func (a *attachment) preferNext(path string) error {
	next, err := ebpf.LoadPinnedProgram(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return unlessDenied("open program "+a.hook.name, err)
	}
	candidate := &attachment{hook: a.hook, cgroup: a.cgroup, program: next, link: a.link}
	running, attached, err := candidate.runs()
	own, ownErr := programID(next)
	if err == nil && attached && own == running {
		a.program, next, a.isNext = next, a.program, true
	}
	_ = next.Close()
	return errors.Join(err, ownErr)
}

// checkAttached tells whether all of it is on the hooks; the caller holds mu.
func (d *Datapath) checkAttached() error {
	for _, a := range d.attachments {
		_, attached, err := a.runs()
		if err != nil {
			return err
		}
		if !attached && !sameFile(d.cgroup, d.opts.Cgroup) {
			return fmt.Errorf("%s: %w", a.hook.name, ErrCgroupGone)
		}
		if !attached {
			return fmt.Errorf("%s: %w", a.hook.name, ErrDetached)
		}
	}
	return nil
}
