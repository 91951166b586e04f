// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
)

// restore enrols again what an agent before us had, and moves connected sockets.
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
	if restored == 0 {
		return
	}
	moved, err := a.datapath.Resteer()
	if err != nil {
		a.log.Warn("some connected sockets stay with their nameserver", "err", err)
	}
	a.log.Info("restored", "attachments", restored, "sockets", moved)
}

func (a *agent) restoreOne(r record) error {
	f, err := cnirpc.OpenNamespace(r.Attachment.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	ns, err := identify(f)
	if err != nil {
		return err
	}
	if ns != (nsID{r.Dev, r.Ino}) {
		return fmt.Errorf("%s is another namespace now", r.Attachment.Path)
	}
	r.Attachment.Namespace = f
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err = a.add(r.Attachment)
	return err
}
