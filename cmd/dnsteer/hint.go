// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"

	"github.com/dnsteer/dnsteer/loader"
)

// errNotRoot is what commands say that need more than an ordinary user has.
var errNotRoot = errors.New("root is needed to load BPF programs and to make cgroups")

// hinted is an error that knows its own remedy.
type hinted struct {
	err  error
	hint string
}

func (h hinted) Error() string { return h.err.Error() }
func (h hinted) Unwrap() error { return h.err }

func withHint(err error, hint string) error { return hinted{err, hint} }

// hintFor returns what the reader of an error can do about it, or nothing.
func hintFor(err error) string {
	var h hinted
	var preflight *loader.PreflightError
	var notRun cannotRun
	switch {
	case errors.As(err, &h):
		return h.hint
	case errors.As(err, &notRun): // it is CMD that lacks something
		return ""
	case errors.As(err, &preflight):
		return preflight.Findings[0].Remedy
	case errors.Is(err, errNotRoot):
		return "run it with sudo"
	case errors.Is(err, loader.ErrNotBPFFS):
		return "mount -t bpf bpf /sys/fs/bpf, or name another one with --bpffs"
	case errors.Is(err, loader.ErrNotCgroup2):
		return "mount -t cgroup2 cgroup2 /sys/fs/cgroup, or name a cgroup v2 directory with --cgroup"
	case errors.Is(err, loader.ErrNotLoaded):
		return "'dnsteer status' shows what is loaded; 'dnsteer load' loads it"
	case errors.Is(err, loader.ErrLoaded):
		return "'dnsteer status' shows it; 'dnsteer unload' removes it"
	case errors.Is(err, loader.ErrLayout), errors.Is(err, loader.ErrDetached):
		return "run 'dnsteer unload' and then 'dnsteer load'"
	case errors.Is(err, loader.ErrCgroupGone):
		return "make the cgroup first, or name one that is there with --cgroup"
	case errors.Is(err, loader.ErrExclusive):
		return "'dnsteer check' shows who: that program has to go, or to be attached by link or with BPF_F_ALLOW_MULTI"
	case errors.Is(err, loader.ErrNoBTF):
		return "'dnsteer check' shows why; it takes a kernel with CONFIG_DEBUG_INFO_BTF that is not locked down"
	case errors.Is(err, os.ErrPermission):
		return "'dnsteer check' shows what is missing"
	}
	return ""
}

// moreFindings are those that an error in one line has no room for: it names the first, and
// hintFor its remedy.
func moreFindings(err error) []loader.Finding {
	var preflight *loader.PreflightError
	if !errors.As(err, &preflight) {
		return nil
	}
	return preflight.Findings[1:]
}

func needRoot() error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	return nil
}
