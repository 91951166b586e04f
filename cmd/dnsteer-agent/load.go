// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log/slog"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/resolver"
)

// procDir is the proc filesystem in which the node's processes are seen.
const procDir = "/proc"

// newAgent makes an agent that knows the names, but no pods; it has no datapath yet.
func (s *settings) newAgent(log *slog.Logger) (*agent, error) {
	a := &agent{
		store: store{s.state}, log: log, root: s.root,
		policy:      policy{all: s.steer == steerAll, cluster: s.nodeName != "", node: s.hostNetwork},
		pods:        make(map[proc.NamespaceID]*pod),
		attachments: make(map[cnirpc.ID]*pod),
		draining:    make(map[proc.NamespaceID]chan struct{}),
	}
	var err error
	if a.home, err = openHome(); err != nil {
		return nil, err
	}
	if a.own, err = proc.Identify(a.home.file); err != nil {
		return nil, fmt.Errorf("find own network namespace: %w", err)
	}
	mounts, err := proc.CgroupMounts(procDir + "/self/mountinfo")
	if err != nil {
		return nil, err
	}
	a.scanner = proc.NewScanner(procDir, proc.CgroupName(mounts, s.opts.Cgroup), a.own)
	if s.nodeName != "" {
		a.cluster, err = cluster.Open(cluster.Options{
			Kubeconfig: s.kubeconfig, Node: s.nodeName, Self: s.instance, DNS: s.dnsSelector, Log: log,
		})
		if err != nil {
			return nil, err
		}
	}
	conf := resolver.Config{Logger: log, RandomCase: s.randomCase}
	if s.queryLog > 0 {
		conf.QueryLog, conf.QueryLogEvery = log, s.queryLog
	}
	if a.server, err = resolver.New(conf); err != nil {
		return nil, err
	}
	if err := s.openNames(a); err != nil {
		return nil, err
	}
	if s.hostNetwork {
		if err := a.meetNode(); err != nil {
			return nil, err
		}
	}
	return a, nil
}
