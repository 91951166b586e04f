// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
)

// onNode opens what a path of the node names, whose files are at root, for its identity
// alone. A link there means what it does there: /var/run is "/run", which from here may be
// another directory.
func onNode(root, path string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(dir)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(dir, path, &how)
	// While somebody renames or mounts, it does not look behind "..".
	for tries := 0; errors.Is(err, unix.EAGAIN) && tries < 100; tries++ {
		fd, err = unix.Openat2(dir, path, &how)
	}
	if errors.Is(err, unix.EXDEV) { // by a link of /proc, which leads to the same from anywhere
		fd, err = unix.Open(filepath.Join(root, path), unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s in %s: %w", path, root, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openOnNode opens the network namespace that a path of the node names.
func openOnNode(root, path string) (*os.File, error) {
	f, err := onNode(root, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return cnirpc.OpenNamespace(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

// isAt tells whether a path of the node names a namespace. After an error nobody knows.
func (a *agent) isAt(path string, ns proc.NamespaceID) (bool, error) {
	f, err := onNode(a.root, path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	now, err := proc.Identify(f)
	return now == ns, err
}

// restore makes known again what an agent before us was told. Whether those pods are
// steered is then for reconcile to say.
func (a *agent) restore() {
	restored := 0
	for _, r := range a.store.all() {
		log := a.log.With("container", r.Attachment.ContainerID)
		if is, err := a.isAt(r.Attachment.Path, r.namespace()); err == nil && !is {
			log.Info("forget a pod that has gone")
			_ = a.store.remove(r.Attachment.ID)
			continue
		}
		if err := a.restoreOne(r); err != nil { // the next agent may be luckier
			log.Warn("a pod is known by its processes alone", "err", err)
			continue
		}
		restored++
	}
	if restored > 0 {
		a.log.Info("restored", "attachments", restored)
	}
}

func (a *agent) restoreOne(r record) error {
	f, err := openOnNode(a.root, r.Attachment.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	p, err := newPod(f)
	if err != nil {
		return err
	}
	if p.ns != r.namespace() {
		_ = p.file.Close()
		return fmt.Errorf("%s is another namespace now", r.Attachment.Path)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p = a.meet(p)
	p.attach(r.Attachment)
	p.path, p.known = r.Attachment.Path, r.Known
	a.attachments[r.Attachment.ID] = p
	return nil
}

// remember stores a pod's attachments for the agent that comes after us.
func (a *agent) remember(p *pod) {
	for _, at := range p.attachments {
		if err := a.store.put(record{at, p.ns.Dev, p.ns.Ino, p.known}); err != nil {
			a.log.Warn("the pod will not be found by its attachment after a restart", "container", at.ContainerID, "err", err)
		}
	}
}
