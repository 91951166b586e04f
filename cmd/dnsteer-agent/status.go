// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/agentstatus"
	"github.com/dnsteer/dnsteer/loader"
)

// statusSocket answers the CLI.
type statusSocket struct {
	server   http.Server
	listener net.Listener
}

// serveStatus listens until close. It takes the path over from whoever has it.
func serveStatus(path string, status func() (agentstatus.Status, error), log *slog.Logger) (*statusSocket, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("listen for questions: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for questions: %w", err)
	}
	l.SetUnlinkOnClose(false) // it may be the next agent's by then
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+agentstatus.Path, func(w http.ResponseWriter, _ *http.Request) {
		s, err := status()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s)
	})
	s := &statusSocket{listener: l, server: http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}}
	go func() {
		if err := s.server.Serve(l); err != nil && err != http.ErrServerClosed {
			log.Error("stop answering questions", "err", err)
		}
	}()
	return s, nil
}

func (s *statusSocket) close() { _ = s.server.Close() }

// status tells of everything.
func (t *tenure) status() (agentstatus.Status, error) {
	a := t.agent
	s := agentstatus.Status{PID: os.Getpid(), Instance: t.instance, Port: a.datapath.Port(), Goroutines: runtime.NumGoroutine()}
	var st unix.Stat_t
	if err := unix.Stat(t.opts.Cgroup, &st); err != nil {
		return s, fmt.Errorf("look at cgroup %s: %w", t.opts.Cgroup, err)
	}
	s.CgroupID = st.Ino
	if a.cluster != nil {
		synced := a.cluster.Synced()
		s.Cluster = &synced
	}
	leaks, err := a.datapath.LeaksByNamespace()
	if err != nil {
		return s, err
	}
	if a.sources != nil {
		s.Sources = a.sources.Status()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Pods = make([]agentstatus.Pod, 0, len(a.pods))
	for _, p := range a.pods {
		out := p.status()
		if leaks != nil && p.scope != nil {
			if out.Leaks, err = a.leaksOf(p, leaks); err != nil {
				return s, err
			}
		}
		s.Pods = append(s.Pods, out)
	}
	slices.SortFunc(s.Pods, func(a, b agentstatus.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.NetNS, b.NetNS))
	})
	return s, nil
}

// leaksOf picks a pod's.
func (a *agent) leaksOf(p *pod, leaks map[uint64]uint64) (*uint64, error) {
	if p.cookie == 0 {
		err := a.home.within(p.file, func() (err error) {
			p.cookie, err = loader.NamespaceCookie()
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return new(leaks[p.cookie]), nil
}

func (p *pod) status() agentstatus.Pod {
	s := agentstatus.Pod{
		Namespace: p.Namespace, Name: p.Name, UID: p.UID, NetNS: p.ns.String(),
		Reason: p.decision.reason, Error: p.failed, Nameservers: p.conf.Nameservers, Search: p.conf.Search,
	}
	switch sc := p.scope.(type) {
	case *nodeScope:
		s.Resolver, s.Listeners = "node", sc.enrolment.Listeners.Addresses()
		s.Answered = new(sc.resolver.Answered())
	case *podScope:
		s.Resolver = "pod"
	}
	for id := range p.attachments {
		s.Attachments = append(s.Attachments, id.ContainerID+" "+id.IfName)
	}
	slices.Sort(s.Attachments)
	return s
}
