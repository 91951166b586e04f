// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// remoteLabel marks the Secrets in which meshes of several clusters keep how to reach
// the others: each key is a cluster's name, its value a kubeconfig.
const remoteLabel = "istio/multiCluster=true"

// Secrets are clusters that Secrets of one cluster name.
type Secrets struct {
	// Rest is the API server that has the Secrets. Renewed tells of another way to reach
	// it; nil: there is never any.
	Rest    *rest.Config
	Renewed <-chan *rest.Config
	// Namespace is where they are.
	Namespace string
	// Cluster is what the clusters have in common. "{cluster}" in a zone, and in Authority, stands for the
	// name of each.
	Cluster Cluster
}

// RunSecrets adds, changes and removes clusters as the Secrets do, until ctx ends. A
// Secret that makes no sense leaves its cluster as it was, and others alone.
func (s *Source) RunSecrets(ctx context.Context, from Secrets) {
	r := &remotes{source: s, ctx: ctx, from: from, log: s.Logger, byKey: make(map[key]map[string][]byte), owner: make(map[string]key)}
	w := watched{kind: "secrets " + remoteLabel, group: corev1.SchemeGroupVersion, resource: "secrets",
		space: from.Namespace, selector: remoteLabel, object: &corev1.Secret{},
		set: r.set, known: func() iter.Seq[key] { return maps.Keys(r.byKey) }}
	for config := from.Rest; ; {
		watching, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- w.run(watching, config, r) }()
		select {
		case config = <-from.Renewed:
			stop()
			<-ended
			continue
		case err := <-ended:
			stop()
			if err == nil {
				return // ctx ended
			}
			r.failed(w.kind, err)
		}
		select {
		case config = <-from.Renewed:
		case <-ctx.Done():
			return
		}
	}
}

// remotes are the clusters of Secrets.
type remotes struct {
	source *Source
	ctx    context.Context // bounds the clusters
	from   Secrets
	log    *slog.Logger

	mu    sync.Mutex
	byKey map[key]map[string][]byte // what they have, by Secret and cluster
	owner map[string]key            // which Secret a cluster is of
	last  string                    // what was logged last about the Secrets as a whole
}

// set takes a Secret, nil where it is gone.
func (r *remotes) set(k key, o runtime.Object) {
	have := r.byKey[k]
	delete(r.byKey, k)
	if o, ok := o.(*corev1.Secret); ok && len(o.Data) > 0 {
		r.byKey[k] = o.Data
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, stays := r.byKey[k][name]; !stays && r.owner[name] == k {
			r.release(k, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.byKey[k])) {
		if r.owner[name] != k || !bytes.Equal(have[name], r.byKey[k][name]) {
			r.tryAdd(k, name)
		}
	}
}

// tryAdd lets a Secret say how a cluster is reached, and tells whether it does.
func (r *remotes) tryAdd(k key, name string) bool {
	if err := r.add(k, name, r.byKey[k][name]); err != nil {
		r.log.Warn("leave a cluster as it is", "secret", k.namespace+"/"+k.name, "cluster", name, "err", err)
		return false
	}
	return true
}

func (r *remotes) add(k key, name string, kubeconfig []byte) error {
	if owner, ok := r.owner[name]; ok && owner != k {
		return fmt.Errorf("a cluster of this name is in secret %s/%s already", owner.namespace, owner.name)
	}
	config, err := remoteConfig(kubeconfig)
	if err != nil {
		return err
	}
	c := r.from.Cluster
	c.Name, c.Rest = name, config
	c.Zones, c.Authority = of(name, c.Zones), of(name, c.Authority)
	if err := r.source.Set(r.ctx, c); err != nil {
		return err
	}
	r.owner[name] = k
	return nil
}

// release gives a cluster of a Secret to another one that names it, or forgets it.
func (r *remotes) release(k key, name string) {
	delete(r.owner, name)
	inOrder := func(a, b key) int { return cmp.Compare(a.name, b.name) } // they are of one namespace
	for _, other := range slices.SortedFunc(maps.Keys(r.byKey), inOrder) {
		if _, ok := r.byKey[other][name]; ok && r.tryAdd(other, name) {
			r.log.Info("the cluster is of another secret now", "secret", other.namespace+"/"+other.name, "cluster", name)
			return
		}
	}
	r.log.Info("forget a cluster", "secret", k.namespace+"/"+k.name, "cluster", name)
	r.source.Remove(name)
}

// of puts the name of a cluster into zones.
func of(cluster string, zones []string) []string {
	var all []string
	for _, zone := range zones {
		all = append(all, strings.ReplaceAll(zone, "{cluster}", cluster))
	}
	return all
}

// remoteConfig reads a kubeconfig that whoever may write a Secret wrote: it must not
// make us run a program or read a file.
func remoteConfig(data []byte) (*rest.Config, error) {
	config, err := clientcmd.Load(data)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	if err := checkHarmless(config); err != nil {
		return nil, fmt.Errorf("refuse kubeconfig: %w", err)
	}
	c, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	return c, nil
}

func checkHarmless(config *clientcmdapi.Config) error {
	for _, name := range slices.Sorted(maps.Keys(config.AuthInfos)) {
		u := config.AuthInfos[name]
		switch {
		case u.Exec != nil || u.AuthProvider != nil:
			return fmt.Errorf("user %q needs a program to log in: give a token or certificates", name)
		case u.TokenFile != "" || u.ClientCertificate != "" || u.ClientKey != "":
			return fmt.Errorf("user %q refers to a file: put its content in", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(config.Clusters)) {
		if config.Clusters[name].CertificateAuthority != "" {
			return fmt.Errorf("cluster %q refers to a file: put its content in", name)
		}
	}
	if len(config.Clusters) == 0 {
		return errors.New("it has no cluster")
	}
	return nil
}

// heard implements listener.
func (r *remotes) heard(string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = ""
}

// failed implements listener.
func (r *remotes) failed(kind string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := gist(err)
	if errors.Is(err, context.Canceled) || r.last == text {
		return
	}
	r.last = text
	r.log.Warn("the clusters stay as they are", "kind", kind, "namespace", r.from.Namespace, "err", text,
		"hint", "allow get, list and watch of secrets in this namespace")
}

// listed implements listener.
func (r *remotes) listed(string) {}

// locked implements listener: one goroutine calls set.
func (r *remotes) locked(f func()) { f() }
