// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
	"github.com/dnsteer/dnsteer/resolver"
)

// Sources are open sources. Their layers fill while Run runs.
type Sources struct {
	log     *slog.Logger
	kinds   []kubernetes
	started chan struct{} // closed when every cluster is watched
}

// kubernetes is one source of that kind.
type kubernetes struct {
	source   *kube.Source
	layer    *resolver.Layer
	clusters []kube.Cluster
	secrets  *kube.Secrets
}

// Open adds a layer to all for each source of a config. It reads kubeconfigs, and asks
// nobody yet.
func Open(c *Config, all *resolver.Names, log *slog.Logger) (*Sources, error) {
	s := &Sources{log: log, started: make(chan struct{})}
	for i, source := range c.Sources {
		kind, config := "kubernetes", source.Kubernetes
		if source.MCS != nil {
			kind, config = "mcs", source.MCS.kubernetes()
		}
		k, err := openKubernetes(config, all.AddLayer(fmt.Sprintf("source %d (%s)", i+1, kind)), log)
		if err != nil {
			return nil, fmt.Errorf("open source %d: %w", i+1, err)
		}
		s.kinds = append(s.kinds, k)
	}
	return s, nil
}

func openKubernetes(c *Kubernetes, layer *resolver.Layer, log *slog.Logger) (kubernetes, error) {
	merge, err := kube.ParseMerge(c.Merge)
	if err != nil {
		return kubernetes{}, err
	}
	age, err := c.maxAge()
	if err != nil {
		return kubernetes{}, err
	}
	config := kube.Config{Merge: merge, TTL: c.TTL, MaxAge: age, Imports: c.imports, Logger: log}
	k := kubernetes{source: kube.NewSource(layer, config), layer: layer}
	for _, cluster := range c.Clusters {
		reach, err := cluster.reach()
		if err != nil {
			return kubernetes{}, fmt.Errorf("cluster %s: %w", cluster.Name, err)
		}
		reverse := cluster.Local
		if cluster.Reverse != nil {
			reverse = *cluster.Reverse
		}
		k.clusters = append(k.clusters, kube.Cluster{Name: cluster.Name, Local: cluster.Local, Zones: cluster.zones(), Reverse: reverse, Rest: reach})
		if s := c.Secrets; s != nil && s.Cluster == cluster.Name {
			k.secrets = &kube.Secrets{Rest: reach, Namespace: s.Namespace, Cluster: kube.Cluster{Zones: s.Zones, Reverse: s.Reverse}}
		}
	}
	return k, nil
}

// reach says how to reach a cluster's API server.
func (c Cluster) reach() (*rest.Config, error) {
	if c.Kubeconfig == "" {
		return rest.InClusterConfig()
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context}).ClientConfig()
}

// conflictInterval is how often names that are hidden are looked for.
const conflictInterval = 10 * time.Second

// Await waits until every cluster of the config is served, or ctx ends: whoever takes
// over from somebody who knew all names wants to know them first. It returns the names of
// those that are not.
func (s *Sources) Await(ctx context.Context) (missing []string) {
	select {
	case <-ctx.Done():
	case <-s.started:
	}
	for _, k := range s.kinds {
		for _, c := range k.clusters {
			select {
			case <-k.source.Served(c.Name):
				continue
			default:
			}
			select {
			case <-ctx.Done():
				missing = append(missing, c.Name)
			case <-k.source.Served(c.Name):
			}
		}
	}
	return missing
}

// Run fills the layers until ctx ends.
func (s *Sources) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for _, k := range s.kinds {
		running.Go(func() { k.source.Run(ctx) })
		for _, c := range k.clusters {
			if err := k.source.Set(ctx, c); err != nil {
				s.log.Warn("leave a cluster out", "err", err)
			}
		}
		if k.secrets != nil {
			running.Go(func() {
				if err := k.source.RunSecrets(ctx, *k.secrets); err != nil {
					s.log.Warn("leave the clusters of secrets out", "err", err)
				}
			})
		}
	}
	close(s.started)
	running.Go(func() { s.tellConflicts(ctx) })
}

// tellConflicts logs how many names of a layer an earlier one hides, when that changes.
func (s *Sources) tellConflicts(ctx context.Context) {
	tick := time.NewTicker(conflictInterval)
	defer tick.Stop()
	told := make([]int, len(s.kinds))
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i, k := range s.kinds {
			names, hidden := k.layer.Count()
			if hidden != told[i] {
				s.log.Warn("names are hidden by an earlier source", "layer", k.layer.Name(), "names", names, "hidden", hidden, "example", k.layer.Hidden())
				told[i] = hidden
			}
		}
	}
}
