// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

const (
	// DefaultPort is the port of the target.
	DefaultPort = 15053
	// DefaultOwner is the UID and GID whose sockets are exempt, by the convention of
	// service meshes.
	DefaultOwner = 1337
	// DefaultBPFFS is where BPF filesystems are mounted by convention.
	DefaultBPFFS = "/sys/fs/bpf"
)

// Errors that callers may test for.
var (
	ErrLoaded     = errors.New("datapath is already loaded")
	ErrNotLoaded  = errors.New("datapath is not loaded")
	ErrLayout     = errors.New("datapath has another layout")
	ErrDetached   = errors.New("datapath is detached from its hooks")
	ErrExclusive  = errors.New("another program has the hook to itself")
	ErrNotCgroup2 = errors.New("not a cgroup v2 directory")
	ErrNotBPFFS   = errors.New("not a BPF filesystem")
	ErrCgroupGone = errors.New("cgroup is gone")
	ErrNoBTF      = errors.New("kernel does not tell how it lays out sockets")
)

// Options say where a datapath lives and what it steers.
type Options struct {
	// Cgroup is the directory of the cgroup (v2) whose sockets are steered, with all
	// cgroups below it.
	Cgroup string
	// BPFFS is the mount point of the BPF filesystem that holds the pins. Empty means
	// that the datapath is not pinned: it ends with Close, or with the process.
	BPFFS string
	// Port is the target's port; zero means DefaultPort. It is fixed by Load.
	Port uint16
	// Only lists the nameservers to steer; empty means all.
	Only []netip.Prefix
	// Except lists nameservers to leave alone. The longest prefix of both lists wins.
	Except []netip.Prefix
}

func (o Options) port() uint16 {
	if o.Port == 0 {
		return DefaultPort
	}
	return o.Port
}

// SameNameservers tells whether two Options name the same nameservers in Only and Except, in
// whatever order and however often.
func (o Options) SameNameservers(other Options) bool { return maps.Equal(o.rules(), other.rules()) }

// check refuses what cannot be meant.
func (o Options) check() error {
	if o.port() == 53 {
		return errors.New("use port 53 as target: it is the port that is steered")
	}
	for _, p := range slices.Concat(o.Only, o.Except) {
		if !p.IsValid() {
			return errors.New("list nameservers: a prefix is invalid")
		}
	}
	return nil
}

// seams are where a test gets between the loader and the kernel. The zero value
// changes nothing.
type seams struct {
	legacy  bool                       // attach as if the kernel had no links
	alter   func(*ebpf.CollectionSpec) // make the programs those of another version
	reached func(stage string)         // told of each stage of Load, Upgrade and Unload
}

// stage names a point at which the process may die; what it leaves there is what the
// life cycle has to cope with.
func (s seams) stage(name string) {
	if s.reached != nil {
		s.reached(name)
	}
}
