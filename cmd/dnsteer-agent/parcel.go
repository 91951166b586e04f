// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/cmd/internal/resolvconf"
	"github.com/dnsteer/dnsteer/loader"
)

// parcel is one pod as an agent hands it to the next. With it comes the namespace's
// descriptor, and those of the listeners if it is steered to the node's resolver.
type parcel struct {
	Pod         cnirpc.Pod          `json:"pod"`
	Attachments []cnirpc.Attachment `json:"attachments"`
	Path        string              `json:"path"`
	PID         int                 `json:"pid"`
	IsNode      bool                `json:"isNode,omitempty"`
	Annotations map[string]string   `json:"annotations,omitempty"`
	Known       *cluster.Pod        `json:"known,omitempty"`
	Conf        resolvconf.Conf     `json:"conf"`
	ConfRead    time.Time           `json:"confRead"`
	// Settings are those of the scope, if it is steered to the node's resolver.
	Settings *loader.Scope `json:"settings,omitempty"`
	// Foreign is the pod's own resolver, if it is steered to that.
	Foreign *foreignParcel `json:"foreign,omitempty"`
}

type foreignParcel struct {
	Cookie  uint64 `json:"cookie"`
	Owner   uint32 `json:"owner"`
	Listens bool   `json:"listens"`
}

// pack makes a parcel. The files stay the pod's.
func (p *pod) pack() (parcel, []*os.File) {
	out := parcel{
		Pod: p.Pod, Attachments: slices.Collect(maps.Values(p.attachments)), Path: p.path, PID: p.pid, IsNode: p.isNode,
		Annotations: p.annotations, Known: p.known, Conf: p.conf, ConfRead: p.confRead,
	}
	files := []*os.File{p.file}
	switch s := p.scope.(type) {
	case *nodeScope:
		out.Settings = &s.settings
		files = append(files, s.enrolment.Listeners.Files()...)
	case *podScope:
		out.Foreign = &foreignParcel{Cookie: s.cookie, Owner: s.owner, Listens: s.listens}
	}
	return out, files
}

// unpack makes known a pod that another agent hands over, and serves it, while the other
// does so too. It takes the files over, and closes them if it fails.
func (a *agent) unpack(in parcel, files []*os.File) error {
	if len(files) == 0 {
		return errors.New("take over pod: it came without namespace")
	}
	p, err := newPod(files[0])
	_ = files[0].Close()
	if err != nil {
		closeFiles(files[1:])
		return fmt.Errorf("take over pod: %w", err)
	}
	p.Pod, p.path, p.pid, p.isNode = in.Pod, in.Path, in.PID, in.IsNode
	p.annotations, p.known, p.conf, p.confRead = in.Annotations, in.Known, in.Conf, in.ConfRead
	a.mu.Lock()
	defer a.mu.Unlock()
	p = a.meet(p)
	for _, at := range in.Attachments {
		p.attach(at)
		a.attachments[at.ID] = p
	}
	p.decision = a.policy.decide(p.facts())
	switch {
	case in.Foreign != nil:
		p.scope = &podScope{
			namespace: p.file, home: a.home, datapath: a.datapath,
			cookie: in.Foreign.Cookie, owner: in.Foreign.Owner, listens: in.Foreign.Listens,
		}
	case in.Settings != nil:
		s, err := a.adoptScope(plan{namespace: p.file, conf: p.conf, log: p.logger(a.log)}, *in.Settings, files[1:])
		if err != nil {
			return fmt.Errorf("take over pod: %w", err)
		}
		p.scope = s
	}
	return nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
