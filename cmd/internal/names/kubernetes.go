// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"k8s.io/client-go/rest"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
	"github.com/dnsteer/dnsteer/resolver"
)

// clusters is a source of the kind kubernetes, or mcs.
type clusters struct {
	source  *kube.Source
	all     []reached
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
		at := reached{from: cluster}
		if cluster.Kubeconfig != "" {
			// Before reach does: what changes in between is read again.
			if at.text, err = os.ReadFile(cluster.Kubeconfig); err != nil {
				return nil, fmt.Errorf("cluster %s: %w", cluster.Name, err)
			}
		}
		reach, err := cluster.reach()
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", cluster.Name, err)
		}
		reverse := cluster.Local
		if cluster.Reverse != nil {
			reverse = *cluster.Reverse
		}
		at.Cluster = kube.Cluster{Name: cluster.Name, Local: cluster.Local, Zones: cluster.zones(), Authority: cluster.Authority, Reverse: reverse, Rest: reach}
		if s := c.Secrets; s != nil && s.Cluster == cluster.Name {
			at.renewed = make(chan *rest.Config)
			k.secrets = &kube.Secrets{Rest: reach, Renewed: at.renewed, Namespace: s.Namespace, Cluster: kube.Cluster{Zones: s.Zones, Authority: s.Authority, Reverse: s.Reverse}}
		}
		k.all = append(k.all, at)
	}
	return k, nil
}

func (k clusters) start(ctx context.Context, running *sync.WaitGroup) {
	running.Go(func() { k.source.Run(ctx) })
	for _, c := range k.all {
		if err := k.source.Set(ctx, c.Cluster); err != nil {
			k.log.Warn("leave a cluster out", "err", err)
		}
		if c.from.Kubeconfig != "" {
			running.Go(func() { k.followKubeconfig(ctx, c) })
		}
	}
	if k.secrets != nil {
		running.Go(func() { k.source.RunSecrets(ctx, *k.secrets) })
	}
}

func (k clusters) awaited() map[string]<-chan struct{} {
	all := make(map[string]<-chan struct{})
	for _, c := range k.all {
		all[c.Name] = k.source.Served(c.Name)
	}
	return all
}
