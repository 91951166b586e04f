// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
	"github.com/dnsteer/dnsteer/resolver"
)

// clusters is a source of the kind kubernetes, or mcs.
type clusters struct {
	source  *kube.Source
	all     []kube.Cluster
	secrets *kube.Secrets
	log     *slog.Logger
}

func openKubernetes(c *Kubernetes, layer *resolver.Layer, log *slog.Logger) (kind, error) {
	merge, err := kube.ParseMerge(c.Merge)
	if err != nil {
		return nil, err
	}
	age, err := parseAge(c.MaxAge)
	if err != nil {
		return nil, err
	}
	config := kube.Config{Merge: merge, TTL: c.TTL, MaxAge: age, Imports: c.imports, Logger: log}
	k := clusters{source: kube.NewSource(layer, config), log: log}
	for _, cluster := range c.Clusters {
		reach, err := cluster.reach()
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", cluster.Name, err)
		}
		reverse := cluster.Local
		if cluster.Reverse != nil {
			reverse = *cluster.Reverse
		}
		k.all = append(k.all, kube.Cluster{Name: cluster.Name, Local: cluster.Local, Zones: cluster.zones(), Reverse: reverse, Rest: reach})
		if s := c.Secrets; s != nil && s.Cluster == cluster.Name {
			k.secrets = &kube.Secrets{Rest: reach, Namespace: s.Namespace, Cluster: kube.Cluster{Zones: s.Zones, Reverse: s.Reverse}}
		}
	}
	return k, nil
}

func (k clusters) start(ctx context.Context, running *sync.WaitGroup) {
	running.Go(func() { k.source.Run(ctx) })
	for _, c := range k.all {
		if err := k.source.Set(ctx, c); err != nil {
			k.log.Warn("leave a cluster out", "err", err)
		}
	}
	if k.secrets != nil {
		running.Go(func() {
			if err := k.source.RunSecrets(ctx, *k.secrets); err != nil {
				k.log.Warn("leave the clusters of secrets out", "err", err)
			}
		})
	}
}

func (k clusters) awaited() map[string]<-chan struct{} {
	all := make(map[string]<-chan struct{})
	for _, c := range k.all {
		all[c.Name] = k.source.Served(c.Name)
	}
	return all
}

// reach says how to reach a cluster's API server.
func (c Cluster) reach() (*rest.Config, error) {
	if c.Kubeconfig == "" {
		return rest.InClusterConfig()
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context}).ClientConfig()
}
