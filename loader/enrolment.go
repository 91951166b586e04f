// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
)

// HeartbeatInterval is how often Beat is to be called. A scope whose last heartbeat is
// older than 2 s is passed by, so three may fail.
const HeartbeatInterval = 500 * time.Millisecond

// Enrolment is the hold of a process on its scope: the listeners, their socket
// storage, the tags, and the heart by which the scope lives. It can be handed to another
// process with Files. It is safe for concurrent use, also by several processes.
type Enrolment struct {
	Listeners *Listeners
	heart     *Heart // shared with other scopes, unless it is own
	own       bool

	mu       sync.Mutex                     // one change at a time
	settings atomic.Pointer[bpf.SteerScope] // as last seen; they outlive the scope
}

// Attend takes hold of a scope that is not enrolled yet: Enrol makes it one. The
// Enrolment owns the listeners from here on. It has a heart of its own, which Beat keeps
// beating; a process with many scopes makes one Heart for all.
func (d *Datapath) Attend(l *Listeners) (*Enrolment, error) {
	h, err := d.NewHeart()
	if err != nil {
		return nil, err
	}
	return &Enrolment{Listeners: l, heart: h, own: true}, nil
}

// Enrol makes the listeners' namespace a scope: from here on, its queries are steered.
// It replaces the settings of a scope that is already enrolled. An error leaves no scope.
//
// Call it in the listeners' network namespace: it looks up the addresses that sockets have
// there, which stay unknown elsewhere. FollowRoutes keeps them true.
func (e *Enrolment) Enrol(s Scope) error {
	var flags bpf.SteerScopeFlag
	if e.Listeners.has(familyIPv4, true) {
		flags |= bpf.SteerScopeFlagSCOPE_TAGS_IPV4
	}
	if e.Listeners.has(familyIPv6, true) {
		flags |= bpf.SteerScopeFlagSCOPE_TAGS_IPV6
	}
	return e.exclusively(func() error {
		settings := s.settings(flags)
		if err := errors.Join(e.lookUpSources(&settings), e.liveBy(&settings)); err != nil {
			return errors.Join(err, e.delete())
		}
		if err := e.write(settings, ebpf.UpdateAny); err != nil {
			return errors.Join(err, e.delete())
		}
		return nil
	})
}

// Beat renews the heartbeat of a scope, and of all that live by the same heart. Call it
// every HeartbeatInterval as long as, and only if, the resolver answers. It fails with
// ebpf.ErrKeyNotExist before Enrol and after Withdraw, whichever process called those.
// For many scopes see Heart.Beat, which makes no system call.
func (e *Enrolment) Beat() error {
	settings, err := e.recall()
	if err != nil {
		return err
	}
	if e.heart.words.beat(pulseOf(settings)) {
		return nil
	}
	return e.follow()
}

// recall reads the settings as they are, and remembers them.
func (e *Enrolment) recall() (bpf.SteerScope, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	settings, err := e.read()
	if err == nil {
		e.settings.Store(&settings)
	}
	return settings, err
}

// follow has the scope, if there is one, live by this process's heart.
func (e *Enrolment) follow() error {
	return e.rewrite(e.liveBy)
}

// liveBy has the settings name this process's heart, which beats.
func (e *Enrolment) liveBy(settings *bpf.SteerScope) error {
	p, err := e.heart.claimed()
	settings.Heart, settings.Generation = p.slot, p.generation
	return err
}

// Refresh looks up again which local addresses sockets of the namespace have, for what
// getsockname shows; call it in the listeners' namespace. FollowRoutes calls it when there
// is a reason.
func (e *Enrolment) Refresh() error { return e.rewrite(e.lookUpSources) }

// rewrite changes the settings of a scope that there is, if they change at all.
func (e *Enrolment) rewrite(change func(*bpf.SteerScope) error) error {
	return e.exclusively(func() error {
		settings, err := e.read()
		if err != nil {
			return err
		}
		before := settings
		if err := change(&settings); err != nil {
			return err
		}
		e.settings.Store(&settings)
		if settings == before {
			return nil
		}
		// Not UpdateAny: it must not bring back what was withdrawn.
		return e.write(settings, ebpf.UpdateExist)
	})
}

// Withdraw ends the scope: from the very next call nothing is steered any more. The
// listeners stay open for what is still on its way.
func (e *Enrolment) Withdraw() error { return e.exclusively(e.delete) }

// exclusively calls change while no other process that holds the scope changes it: what
// is read and written back would undo what Enrol or Withdraw do meanwhile. The lock is the kernel's record lock, on the listener itself.
func (e *Enrolment) exclusively(change func() error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	blessed := e.blessed()
	if len(blessed) == 0 {
		return fmt.Errorf("use scope: %w", os.ErrClosed)
	}
	fd := uintptr(blessed[0].fd)
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(fd, unix.F_SETLKW, &lock); err != nil {
		return fmt.Errorf("lock scope: %w", err)
	}
	defer func() {
		lock.Type = unix.F_UNLCK
		_ = unix.FcntlFlock(fd, unix.F_SETLK, &lock)
	}()
	return change()
}

// read reads the settings as they are; the process that enrolled may be another.
func (e *Enrolment) read() (bpf.SteerScope, error) {
	var settings bpf.SteerScope
	blessed := e.blessed()
	if len(blessed) == 0 {
		return settings, fmt.Errorf("read scope: %w", os.ErrClosed)
	}
	if err := e.heart.scopes.Lookup(blessed[0].storageKey(), &settings); err != nil {
		return settings, fmt.Errorf("read scope: %w", err)
	}
	return settings, nil
}

// write puts the settings on the listeners.
func (e *Enrolment) write(settings bpf.SteerScope, how ebpf.MapUpdateFlags) error {
	for _, s := range e.blessed() {
		if err := e.heart.scopes.Update(s.storageKey(), settings, how); err != nil {
			return fmt.Errorf("write scope: %w", err)
		}
	}
	e.settings.Store(&settings)
	return nil
}

// lookUpSources fills in the local addresses. Those of another namespace than the
// listeners' would be wrong there.
func (e *Enrolment) lookUpSources(settings *bpf.SteerScope) error {
	if !e.isHere() {
		return nil
	}
	for family := range settings.Source {
		settings.Source[family] = toAddress(sourceFor(elsewhere(family)))
		settings.PrimarySource[family] = toAddress(sourceFor(fromAddress(settings.Primary[family])))
	}
	return nil
}

// isHere tells whether the calling thread is in the listeners' namespace. Where it may
// not know (see isOf) it trusts the caller.
func (e *Enrolment) isHere() bool {
	here, err := isOf(e.blessed()[0].fd)
	return here || errors.Is(err, unix.EPERM)
}

func (e *Enrolment) delete() error {
	var errs []error
	for _, s := range e.blessed() {
		if err := e.heart.scopes.Delete(s.storageKey()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("withdraw scope: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Expect says what Origin is to tell of the loopback addresses until the scope is
// enrolled: queries may have waited at the listeners that a former resolver has left.
func (e *Enrolment) Expect(s Scope) {
	settings := s.settings(0)
	e.settings.CompareAndSwap(nil, &settings)
}

// Origin returns the nameserver that a query was meant for which arrived at a local
// address. It is false if the address is no target, or stands for nothing here. It goes
// on telling after Withdraw, for what was on its way.
func (e *Enrolment) Origin(local netip.Addr) (netip.Addr, bool) {
	local = local.Unmap()
	if local == netip.IPv6Loopback() || local == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		settings := e.settings.Load()
		if settings == nil {
			// Enrolled by another process, and asked before our first Beat.
			enrolled, err := e.recall()
			if err != nil {
				return netip.Addr{}, false
			}
			settings = &enrolled
		}
		primary := fromAddress(settings.Primary[familyOf(local)])
		return primary, primary.IsValid()
	}
	number, ok := tagNumber(local, e.Listeners.Port)
	if !ok {
		return netip.Addr{}, false
	}
	if known, ok := e.heart.known.Load(number); ok {
		return known.(netip.Addr), true
	}
	var address bpf.SteerAddress
	if err := e.heart.tags.Lookup(number, &address); err != nil {
		return netip.Addr{}, false
	}
	nameserver := fromAddress(address)
	e.heart.known.Store(number, nameserver)
	return nameserver, true
}

// Close gives up the hold: the listeners, and the heart if it is the scope's own. The
// scope lives on if another process holds it too.
func (e *Enrolment) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.Listeners.Close()
	e.heart.leave(e)
	if e.own {
		e.heart.Close()
	}
}

// blessed are the sockets that carry the scope, where the datapath looks for it.
func (e *Enrolment) blessed() []*socket {
	var seals, loopback []*socket
	for _, s := range e.Listeners.sockets {
		switch {
		case s.seal:
			seals = append(seals, s)
		case !s.tags:
			loopback = append(loopback, s)
		}
	}
	if len(seals) > 0 {
		return seals
	}
	return loopback
}

// storageKey is how user space names a socket to a map of socket storage.
func (s *socket) storageKey() uint32 { return uint32(s.fd) }
