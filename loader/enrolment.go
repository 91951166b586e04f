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
// storage, and the tags. It can be handed to another process with Files. It is safe
// for concurrent use, also by several processes.
type Enrolment struct {
	Listeners *Listeners
	scopes    *ebpf.Map // socket storage of listeners
	tags      *ebpf.Map

	mu       sync.Mutex                     // one change at a time
	settings atomic.Pointer[bpf.SteerScope] // as last seen; they outlive the scope
	known    sync.Map                       // uint32 tag number to netip.Addr; numbers never change
}

// Attend takes hold of a scope that is not enrolled yet: Enrol makes it one. The
// Enrolment owns the listeners from here on.
func (d *Datapath) Attend(l *Listeners) (*Enrolment, error) {
	scopes, err := d.maps[bpf.SteerMapSteerScope].Clone()
	if err != nil {
		return nil, fmt.Errorf("share scopes: %w", err)
	}
	tags, err := d.maps[bpf.SteerMapSteerTag].Clone()
	if err != nil {
		_ = scopes.Close()
		return nil, fmt.Errorf("share tags: %w", err)
	}
	return &Enrolment{Listeners: l, scopes: scopes, tags: tags}, nil
}

// Enrol makes the listeners' namespace a scope: from here on, its queries are steered.
// It replaces the settings of a scope that is already enrolled. An error leaves no scope.
func (e *Enrolment) Enrol(s Scope) error {
	var flags bpf.SteerScopeFlag
	if e.Listeners.has(familyIPv4, true) {
		flags |= bpf.SteerScopeFlagSCOPE_TAGS_IPV4
	}
	if e.Listeners.has(familyIPv6, true) {
		flags |= bpf.SteerScopeFlagSCOPE_TAGS_IPV6
	}
	return e.exclusively(func() error {
		if err := e.write(s.settings(flags), ebpf.UpdateAny); err != nil {
			return errors.Join(err, e.delete())
		}
		return nil
	})
}

// Beat renews the heartbeat. Call it every HeartbeatInterval as long as, and only if,
// the resolver answers. It fails with ebpf.ErrKeyNotExist before Enrol and after
// Withdraw, whichever process called those.
//
// Call Enrol and Beat in the listeners' network namespace: they look up the addresses
// that its sockets would have, which elsewhere stay unknown or as they were.
func (e *Enrolment) Beat() error {
	return e.exclusively(func() error {
		settings, err := e.read()
		if err != nil {
			return err
		}
		// Not UpdateAny: a beat must not bring back what was withdrawn.
		return e.write(settings, ebpf.UpdateExist)
	})
}

// Withdraw ends the scope: from the very next call nothing is steered any more. The
// listeners stay open for what is still on its way.
func (e *Enrolment) Withdraw() error { return e.exclusively(e.delete) }

// exclusively calls change while no other process that holds the scope changes it: a
// heartbeat is read and written back, and what Enrol or Withdraw do meanwhile would be
// undone. The lock is the kernel's record lock, on the listener itself.
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
	if err := e.scopes.Lookup(blessed[0].storageKey(), &settings); err != nil {
		return settings, fmt.Errorf("read scope: %w", err)
	}
	return settings, nil
}

// write puts the settings, with a fresh heartbeat and fresh sources, on the listeners.
func (e *Enrolment) write(settings bpf.SteerScope, how ebpf.MapUpdateFlags) error {
	settings.Beat = monotonic()
	// Addresses of another namespace than the listeners' would be wrong there.
	for family := range settings.Source {
		if !e.isHere() {
			break
		}
		settings.Source[family] = toAddress(sourceFor(elsewhere(family)))
		settings.PrimarySource[family] = toAddress(sourceFor(fromAddress(settings.Primary[family])))
	}
	for _, s := range e.blessed() {
		if err := e.scopes.Update(s.storageKey(), settings, how); err != nil {
			return fmt.Errorf("write scope: %w", err)
		}
	}
	e.settings.Store(&settings)
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
		if err := e.scopes.Delete(s.storageKey()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("withdraw scope: %w", err))
		}
	}
	return errors.Join(errs...)
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
			e.mu.Lock()
			enrolled, err := e.read()
			e.mu.Unlock()
			if err != nil {
				return netip.Addr{}, false
			}
			settings = &enrolled
			e.settings.CompareAndSwap(nil, settings)
		}
		primary := fromAddress(settings.Primary[familyOf(local)])
		return primary, primary.IsValid()
	}
	number, ok := tagNumber(local, e.Listeners.Port)
	if !ok {
		return netip.Addr{}, false
	}
	if known, ok := e.known.Load(number); ok {
		return known.(netip.Addr), true
	}
	var address bpf.SteerAddress
	if err := e.tags.Lookup(number, &address); err != nil {
		return netip.Addr{}, false
	}
	nameserver := fromAddress(address)
	e.known.Store(number, nameserver)
	return nameserver, true
}

// Close gives up the hold: the listeners and the maps. The scope lives on if another
// process holds it too.
func (e *Enrolment) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.Listeners.Close()
	_ = e.scopes.Close()
	_ = e.tags.Close()
}

// blessed are the sockets that the datapath looks up.
func (e *Enrolment) blessed() []*socket {
	var out []*socket
	for _, s := range e.Listeners.sockets {
		if !s.tags {
			out = append(out, s)
		}
	}
	return out
}

// storageKey is how user space names a socket to a map of socket storage.
func (s *socket) storageKey() uint32 { return uint32(s.fd) }

// monotonic is what bpf_ktime_get_ns returns.
func monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return uint64(ts.Nano())
}
