// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
)

// HeartbeatInterval is how often Beat is to be called. A scope whose last heartbeat is
// older than 2 s is passed by, so three may fail.
const HeartbeatInterval = 500 * time.Millisecond

// Scope says how the datapath treats one network namespace.
type Scope struct {
	// OwnerUID and OwnerGID own the sockets that are never steered, as numbers of the
	// initial user namespace. An id of 1<<32 - 1 is nobody's.
	OwnerUID, OwnerGID uint32
	// PrimaryIPv4 and PrimaryIPv6 are the nameservers that 127.0.0.1 and ::1 stand for.
	// Without one, every nameserver of that family gets a tag.
	PrimaryIPv4, PrimaryIPv6 netip.Addr
	// FailClosed refuses with EPERM what would otherwise go to the nameserver because
	// the listener is dead or hung.
	FailClosed bool
	// Untagged gives up tags: all queries arrive at the loopback address, and a socket
	// that asks two nameservers sees both reply as the one it asked last.
	Untagged bool
}

func (s Scope) settings(flags bpf.SteerScopeFlag) bpf.SteerScope {
	v := bpf.SteerScope{Flags: flags, OwnerUid: s.OwnerUID, OwnerGid: s.OwnerGID}
	v.Primary[familyIPv4] = toAddress(s.PrimaryIPv4)
	v.Primary[familyIPv6] = toAddress(s.PrimaryIPv6)
	if s.FailClosed {
		v.Flags |= bpf.SteerScopeFlagSCOPE_CLOSED
	}
	if s.Untagged {
		v.Flags |= bpf.SteerScopeFlagSCOPE_UNTAGGED
	}
	return v
}

// Enrolment is the hold of a process on its scope: the listeners, their socket
// storage, and the tags. It can be handed to another process with Files. It is safe
// for concurrent use.
type Enrolment struct {
	Listeners *Listeners
	scopes    *ebpf.Map // socket storage of listeners
	tags      *ebpf.Map

	mu       sync.Mutex
	held     bool // settings are valid
	settings bpf.SteerScope
	known    sync.Map // uint32 tag number to netip.Addr; numbers never change
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

// Files returns what OpenEnrolment needs in another process: two maps, then the
// listeners. They stay the Enrolment's; pass them to a child, do not close them.
func (e *Enrolment) Files() ([]*os.File, error) {
	var files []*os.File
	for _, m := range []*ebpf.Map{e.scopes, e.tags} {
		fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("pass on map: %w", err)
		}
		files = append(files, os.NewFile(uintptr(fd), "map"))
	}
	for _, s := range e.Listeners.sockets {
		files = append(files, s.file)
	}
	return files, nil
}

// OpenEnrolment makes an Enrolment of the Files of another process. It needs no
// capability since Linux 5.19, CAP_BPF before where kernel.unprivileged_bpf_disabled is on.
func OpenEnrolment(files []*os.File) (*Enrolment, error) {
	if len(files) < 3 {
		return nil, fmt.Errorf("open enrolment: %d files, want two maps and listeners", len(files))
	}
	e := &Enrolment{}
	var err error
	if e.scopes, err = inheritMap(files[0]); err != nil {
		return nil, fmt.Errorf("open scopes: %w", err)
	}
	if e.tags, err = inheritMap(files[1]); err != nil {
		return nil, fmt.Errorf("open tags: %w", err)
	}
	if e.Listeners, err = inheritListeners(files[2:]); err != nil {
		return nil, err
	}
	return e, nil
}

// inheritMap takes over the file.
func inheritMap(f *os.File) (*ebpf.Map, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return ebpf.NewMapFromFD(fd)
}

// Enrol makes the listeners' namespace a scope: from here on, its queries are steered.
// It replaces the settings of a scope that is already enrolled.
func (e *Enrolment) Enrol(s Scope) error {
	var flags bpf.SteerScopeFlag
	if e.Listeners.has(familyIPv4, true) {
		flags |= bpf.SteerScopeFlagSCOPE_TAGS_IPV4
	}
	if e.Listeners.has(familyIPv6, true) {
		flags |= bpf.SteerScopeFlagSCOPE_TAGS_IPV6
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.settings, e.held = s.settings(flags), true
	return e.write()
}

// Beat renews the heartbeat. Call it every HeartbeatInterval as long as, and only if,
// the resolver answers. It fails with ebpf.ErrKeyNotExist before Enrol and after Withdraw.
func (e *Enrolment) Beat() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.hold(); err != nil {
		return err
	}
	return e.write()
}

// hold sees to it that the settings are valid: the process that enrolled may be another.
func (e *Enrolment) hold() error {
	if e.held {
		return nil
	}
	if err := e.scopes.Lookup(e.blessed()[0].storageKey(), &e.settings); err != nil {
		return fmt.Errorf("read scope: %w", err)
	}
	e.held = true
	return nil
}

// write puts the settings, with a fresh heartbeat and fresh sources, on the listeners.
func (e *Enrolment) write() error {
	e.settings.Beat = monotonic()
	for family := range e.settings.Source {
		e.settings.Source[family] = toAddress(sourceFor(elsewhere(family)))
		e.settings.PrimarySource[family] = toAddress(sourceFor(fromAddress(e.settings.Primary[family])))
	}
	for _, s := range e.blessed() {
		if err := e.scopes.Put(s.storageKey(), e.settings); err != nil {
			return fmt.Errorf("write scope: %w", err)
		}
	}
	return nil
}

// Withdraw ends the scope: from the very next call nothing is steered any more. The
// listeners stay open for what is still on its way.
func (e *Enrolment) Withdraw() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = false
	for _, s := range e.blessed() {
		if err := e.scopes.Delete(s.storageKey()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("withdraw scope: %w", err)
		}
	}
	return nil
}

// Origin returns the nameserver that a query was meant for which arrived at a local
// address. It is false if the address is no target, or stands for nothing here.
func (e *Enrolment) Origin(local netip.Addr) (netip.Addr, bool) {
	local = local.Unmap()
	if local == netip.IPv6Loopback() || local == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.hold() != nil {
			return netip.Addr{}, false
		}
		primary := fromAddress(e.settings.Primary[familyOf(local)])
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

// elsewhere returns an address that only the default route leads to: one of those
// reserved for documentation (RFC 5737, RFC 3849).
func elsewhere(family int) netip.Addr {
	if family == familyIPv4 {
		return netip.AddrFrom4([4]byte{203, 0, 113, 1})
	}
	return netip.MustParseAddr("2001:db8:ffff::1")
}

// sourceFor returns the local address of a socket connected to the nameserver, which
// is invalid without a route. Connecting a UDP socket sends nothing; port 9 (discard)
// is not steered.
func sourceFor(nameserver netip.Addr) netip.Addr {
	if !nameserver.IsValid() {
		return netip.Addr{}
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(nameserver, 9)))
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}
