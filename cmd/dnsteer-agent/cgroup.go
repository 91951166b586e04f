// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/loader"
)

// chooseCgroup returns the node's root: all pods are below it, wherever their runtime puts
// them. But where a load balancer is there before us, and the kernel does not let us in
// front of it, that would break replies (loader.CheckOrder). Then it is the cgroup of the
// pods, whose programs run before those of the root.
func (s *settings) chooseCgroup(log *slog.Logger) (string, error) {
	root, err := cgroupRoot(s.root)
	if err != nil {
		return "", err
	}
	pods, err := podsCgroup(root)
	if err != nil {
		return "", err
	}
	at := func(cgroup string) loader.Options { return loader.Options{Cgroup: cgroup, BPFFS: s.opts.BPFFS} }
	order := loader.CheckOrder(at(root))
	chosen := choose(root, pods, order.Severity == loader.OK, func(cgroup string) bool { return loaded(at(cgroup)) })
	switch {
	case chosen != root:
		log.Info("steering the cgroup of the pods", "cgroup", chosen, "in front at the root", order.Have)
	case order.Severity != loader.OK:
		log.Warn("others' programs run before ours", "cgroup", chosen, "in front", order.Have, "remedy", order.Remedy)
	}
	return chosen, nil
}

// choose holds on to a choice while its datapath is loaded. pods may be empty.
func choose(root, pods string, first bool, loaded func(cgroup string) bool) string {
	if pods == "" || !loaded(pods) && (first || loaded(root)) {
		return root
	}
	return pods
}

// loaded tells whether there is a datapath, in whatever state.
func loaded(opts loader.Options) bool {
	d, err := loader.Open(opts)
	if err != nil {
		return errors.Is(err, loader.ErrLayout) || errors.Is(err, loader.ErrDetached)
	}
	d.Close()
	return true
}

// cgroupRoot finds the node's root of cgroup v2. A container has a cgroup filesystem of
// its own, so it is the mounts of the node's first process that count.
func cgroupRoot(root string) (string, error) {
	if root == "/" {
		return loader.CgroupRoot()
	}
	mounts, err := proc.CgroupMounts(procDir + "/1/mountinfo")
	if err != nil {
		return "", err
	}
	if len(mounts) == 0 {
		return "", fmt.Errorf("find the node's cgroup v2: %w", loader.ErrNotCgroup2)
	}
	return filepath.Join(root, mounts[0].Point), nil
}

// podsCgroup finds the cgroup below which a kubelet puts its pods: with the cgroupfs driver
// kubepods, with systemd's kubepods.slice, and either below the kubelet's --cgroup-root,
// whose name a slice has in front. It is empty if there is none, or if there are several.
func podsCgroup(root string) (string, error) {
	var found []string
	for _, above := range []string{"", "*/", "*/*/"} {
		for _, name := range []string{"kubepods", "kubepods.slice", "*-kubepods.slice"} {
			more, err := fs.Glob(os.DirFS(root), above+name)
			if err != nil {
				return "", fmt.Errorf("find the cgroup of pods: %w", err)
			}
			found = append(found, more...)
		}
	}
	if len(found) != 1 {
		return "", nil
	}
	return filepath.Join(root, found[0]), nil
}
