// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dnsteer/dnsteer/test/matrix/kernel"
	"github.com/dnsteer/dnsteer/test/oldkernel"
)

// The names of what is no version. A mask for a version is named by that.
const (
	noLinks = "no-links" // the newest kernel with bpf_link hidden: attached by legacy calls
	noBTF   = "no-btf"   // a kernel that was built without BTF
)

// subject is what the tests run on: a row of the table.
type subject struct {
	name string
	dir  string // of the kernel
	// Of a kernel that Debian serves, or that lies under a mask.
	build kernel.Build
	mask  string   // what is hidden, for people; empty if nothing is
	flags []string // of the runner
	skip  string   // tests that cannot run, as go test has it
	tests bool     // the privileged tests can run, not only the probe
}

// masksNest are the tests that hide something themselves.
const masksNest = `^TestKernelWithout`

// isMask tells whether a name is that of a version which is only to be had as a mask.
func isMask(name string) bool { return slices.Contains(oldkernel.Versions(), name) }

// find gets what a name stands for. The error wraps kernel.ErrNotServed if it is a version
// that is not to be had.
func (l *lab) find(ctx context.Context, name string) (subject, error) {
	switch {
	case name == noBTF:
		dir, err := kernel.WithoutBTF(ctx)
		return subject{name: name, dir: dir, tests: true}, err
	case name == noLinks:
		s, err := l.masked(ctx, "bpf_link hidden", "-without=bpf_link")
		s.name, s.skip, s.tests = name, masksNest, true
		return s, err
	case isMask(name):
		s, err := l.masked(ctx, "what Linux "+name+" lacked hidden", "-as="+name)
		s.name = name
		return s, err
	}
	build, err := l.archive.Newest(name)
	if err != nil {
		return subject{}, err
	}
	dir, err := l.archive.Unpack(ctx, build)
	return subject{name: name, dir: dir, build: build, tests: build.HasModules()}, err
}

// masked is the newest kernel with something hidden.
func (l *lab) masked(ctx context.Context, mask string, flags ...string) (subject, error) {
	newest, err := l.newest()
	if err != nil {
		return subject{}, err
	}
	s, err := l.find(ctx, newest)
	s.mask, s.flags, s.tests = mask, flags, false
	return s, err
}

// choose returns the names in a list, oldest kernel first.
func (l *lab) choose(list string) ([]string, error) {
	var names []string
	for _, name := range splitList(list) {
		switch name {
		case "all":
			names = append(names, slices.Concat(oldkernel.Versions(), wanted, []string{noLinks, noBTF})...)
			for _, m := range l.archive.Minors() {
				if kernel.Compare(m, wanted[len(wanted)-1]) > 0 {
					names = append(names, m)
				}
			}
		case "newest":
			newest, err := l.newest()
			if err != nil {
				return nil, err
			}
			names = append(names, newest)
		default:
			names = append(names, name)
		}
	}
	slices.SortFunc(names, kernel.Compare)
	return slices.Compact(names), nil
}

// newest is the newest kernel on which all tests can run.
func (l *lab) newest() (string, error) {
	for _, minor := range slices.Backward(l.archive.Minors()) {
		if b, err := l.archive.Newest(minor); err == nil && b.HasModules() {
			return minor, nil
		}
	}
	return "", errors.New("find the newest kernel: none has modules")
}

// remark says what a row's kernel really is, if that is not its name.
func (s subject) remark() string {
	if s.mask == "" {
		return ""
	}
	version, _, _ := strings.Cut(s.build.Version, "-")
	return fmt.Sprintf("%s, %s", version, s.mask)
}
