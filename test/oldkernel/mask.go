// SPDX-License-Identifier: Apache-2.0

package oldkernel

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kind is one of the numberings of bpf(2).
type kind string

const (
	command     kind = "command"
	mapType     kind = "map type"
	programType kind = "program type"
	attachType  kind = "attach type"
	helper      kind = "helper"
)

// object is a part of bpf(2) by its number in include/uapi/linux/bpf.h.
type object struct {
	kind   kind
	number uint32
}

// Mask is what is not there. The zero Mask hides nothing.
type Mask struct {
	Name string // for people: "Linux 5.4", "no bpf_link"

	last    map[kind]uint32 // the last numbers that are there
	missing map[object]bool
	calls   map[uint32]unix.Errno // system calls refused, by number
	cookie  bool                  // no SO_NETNS_COOKIE
	privy   bool                  // bpf(2) is for those with CAP_BPF alone
}

// feature is what a user of bpf(2) may have to do without.
type feature struct {
	since   string
	objects []object
	calls   []uint32
	cookie  bool
	privy   bool
}

// features has what dnsteer does something about if it is missing.
var features = map[string]feature{
	"sendmsg":         {since: "4.18", objects: []object{{attachType, unix.BPF_CGROUP_UDP4_SENDMSG}, {attachType, unix.BPF_CGROUP_UDP6_SENDMSG}}},
	"recvmsg":         {since: "5.2", objects: []object{{attachType, unix.BPF_CGROUP_UDP4_RECVMSG}, {attachType, unix.BPF_CGROUP_UDP6_RECVMSG}}},
	"getpeername":     {since: "5.8", objects: []object{{attachType, unix.BPF_CGROUP_INET4_GETPEERNAME}, {attachType, unix.BPF_CGROUP_INET6_GETPEERNAME}}},
	"pidfd_getfd":     {since: "5.6", calls: []uint32{unix.SYS_PIDFD_GETFD}},
	"bpf_link":        {since: "5.7", objects: []object{{command, unix.BPF_LINK_CREATE}, {command, unix.BPF_LINK_UPDATE}, {command, unix.BPF_LINK_GET_FD_BY_ID}, {command, unix.BPF_LINK_GET_NEXT_ID}, {command, unix.BPF_LINK_DETACH}}},
	"SO_NETNS_COOKIE": {since: "5.14", cookie: true},
	// With kernel.unprivileged_bpf_disabled, which distributions set.
	"unprivileged bpf": {since: "5.19", privy: true},
}

// versions has the last numbers of each kernel, from its include/uapi/linux/bpf.h.
var versions = map[string]map[kind]uint32{
	"4.17": {command: 17, mapType: 16, programType: 18, attachType: 13, helper: 64},  // connect; no sendmsg
	"5.1":  {command: 21, mapType: 23, programType: 22, attachType: 17, helper: 98},  // sendmsg; no recvmsg, no socket storage
	"5.4":  {command: 23, mapType: 25, programType: 25, attachType: 22, helper: 110}, // recvmsg; no links, no getpeername
	"5.7":  {command: 29, mapType: 26, programType: 29, attachType: 27, helper: 124}, // links; no getpeername
}

// Versions are the kernels that Linux knows, oldest first.
func Versions() []string {
	return slices.SortedFunc(maps.Keys(versions), compareVersions)
}

// Features are the names that Without knows.
func Features() []string { return slices.Sorted(maps.Keys(features)) }

// Linux hides what a kernel did not have yet. It panics if it does not know it.
func Linux(version string) Mask { return must(ofVersion(version)) }

// Without hides single features. It panics if it does not know one.
func Without(names ...string) Mask { return must(ofFeatures(names)) }

// Parse returns the mask of a version, or of features separated by commas, as flags have
// them. One of the two must be given.
func Parse(version, names string) (Mask, error) {
	if (version == "") == (names == "") {
		return Mask{}, errors.New("hide parts of the kernel: give either a version or features")
	}
	if version != "" {
		return ofVersion(version)
	}
	return ofFeatures(strings.Split(names, ","))
}

func must(m Mask, err error) Mask {
	if err != nil {
		panic(err)
	}
	return m
}

func ofVersion(version string) (Mask, error) {
	last, ok := versions[version]
	if !ok {
		return Mask{}, fmt.Errorf("no mask for Linux %s, only for %s", version, strings.Join(Versions(), ", "))
	}
	var newer []string
	for name, f := range features {
		if compareVersions(f.since, version) > 0 {
			newer = append(newer, name)
		}
	}
	m, err := ofFeatures(newer)
	m.Name, m.last = "Linux "+version, last
	return m, err
}

func ofFeatures(names []string) (Mask, error) {
	m := Mask{
		Name:    "no " + strings.Join(names, ", no "),
		missing: make(map[object]bool),
		calls:   make(map[uint32]unix.Errno),
	}
	for _, name := range names {
		f, ok := features[name]
		if !ok {
			return Mask{}, fmt.Errorf("no mask for feature %q, only for %s", name, strings.Join(Features(), ", "))
		}
		for _, o := range f.objects {
			m.missing[o] = true
		}
		for _, nr := range f.calls {
			m.calls[nr] = unix.ENOSYS
		}
		m.cookie = m.cookie || f.cookie
		m.privy = m.privy || f.privy
	}
	return m, nil
}

// lacks tells whether a part of bpf(2) is hidden.
func (m Mask) lacks(k kind, number uint32) bool {
	last, limited := m.last[k]
	return limited && number > last || m.missing[object{k, number}]
}

func compareVersions(a, b string) int {
	var x, y [2]int
	_, _ = fmt.Sscanf(a, "%d.%d", &x[0], &x[1])
	_, _ = fmt.Sscanf(b, "%d.%d", &y[0], &y[1])
	return slices.Compare(x[:], y[:])
}
