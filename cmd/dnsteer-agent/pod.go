// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/cmd/internal/resolvconf"
)

// pod is one network namespace that is a pod's. It is known for as long as the runtime
// says so (an attachment), or its processes are seen.
type pod struct {
	ns   proc.NamespaceID
	file *os.File // the namespace; ours
	cnirpc.Pod
	attachments map[cnirpc.ID]cnirpc.Attachment // without Namespace
	cookie      uint64                          // by which the datapath knows the namespace; 0 until somebody wants it
	path        string                          // where the runtime has the namespace; empty if that is not seen from here
	pid         int                             // of a process in it; 0 if none is seen
	isNode      bool

	annotations map[string]string // as the runtime told them
	known       *cluster.Pod      // as the API server told it last
	conf        resolvconf.Conf
	confRead    time.Time // when conf was read in the pod itself; zero: the runtime told it
	confSilent  bool      // it cannot be read, and is not to be tried

	decision  decision
	scope     scope         // nil: not steered
	beginning chan struct{} // closed when the scope has begun, or failed; nil without
	holds     int           // of scopes that begin or drain, on file
	failed    string        // why it is not steered although it should be, as it was logged
}

// newPod takes a hold of its own of the namespace.
func newPod(namespace *os.File) (*pod, error) {
	fd, err := unix.FcntlInt(namespace.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep network namespace: %w", err)
	}
	f := os.NewFile(uintptr(fd), "namespace")
	ns, err := proc.Identify(f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &pod{ns: ns, file: f, attachments: make(map[cnirpc.ID]cnirpc.Attachment)}, nil
}

func (p *pod) facts() facts {
	return facts{isNode: p.isNode, annotations: p.annotations, known: p.known}
}

// attach notes an ADD. What it tells is newer than what was known.
func (p *pod) attach(at cnirpc.Attachment) {
	at.Namespace = nil
	p.attachments[at.ID] = at
	if at.Pod.Name != "" {
		p.Pod = at.Pod
	}
	if at.Annotations != nil {
		p.annotations = at.Annotations
	}
	if at.DNS != nil && p.confRead.IsZero() {
		p.conf = resolvconf.New(at.DNS.Servers, at.DNS.Searches, at.DNS.Options)
	}
}

// see notes a process of the pod.
func (p *pod) see(s proc.Sighting) {
	p.pid = s.PID
	if p.UID == "" {
		p.UID = s.PodUID
	}
}

// isGone tells whether nobody speaks of the pod any more.
func (p *pod) isGone() bool { return len(p.attachments) == 0 && p.pid == 0 && !p.isNode }

func (p *pod) logger(log *slog.Logger) *slog.Logger {
	if p.Name == "" {
		return log.With("pod", p.UID)
	}
	return log.With("pod", p.Namespace+"/"+p.Name)
}
