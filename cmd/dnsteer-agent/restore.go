// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
)

// onNode is where a path of the node is seen from here.
func (a *agent) onNode(path string) string { return filepath.Join(a.root, path) }

// restore makes known again what an agent before us was told. Whether those pods are
// steered is then for reconcile to say.
func (a *agent) restore() {
	restored := 0
	for _, r := range a.store.all() {
		if err := a.restoreOne(r); err != nil {
			a.log.Info("forget a pod", "container", r.Attachment.ContainerID, "err", err)
			_ = a.store.remove(r.Attachment.ID)
			continue
		}
		restored++
	}
	if restored > 0 {
		a.log.Info("restored", "attachments", restored)
	}
}

func (a *agent) restoreOne(r record) error {
	f, err := cnirpc.OpenNamespace(a.onNode(r.Attachment.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	p, err := newPod(f)
	if err != nil {
		return err
	}
	if p.ns != (proc.NamespaceID{Dev: r.Dev, Ino: r.Ino}) {
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
