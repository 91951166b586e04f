// SPDX-License-Identifier: Apache-2.0

package names

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
)

// kubeconfigInterval is how soon a kubeconfig that has changed is noticed. A look sees
// what a watch of the inode misses: the links that the kubelet swaps.
const kubeconfigInterval = time.Second

// reach says how to reach a cluster's API server. What a kubeconfig does not say is a
// mistake: it never means the cluster that we are in. Certificates that it names as files
// are in the result, beside the paths.
func (c Cluster) reach() (*rest.Config, error) {
	if c.Kubeconfig == "" {
		return rest.InClusterConfig()
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig}
	config, err := rules.Load()
	if err != nil {
		return nil, err
	}
	if len(config.Clusters) == 0 {
		return nil, fmt.Errorf("read kubeconfig %s: it has no cluster", c.Kubeconfig)
	}
	reach, err := clientcmd.NewNonInteractiveClientConfig(*config, c.Context, &clientcmd.ConfigOverrides{}, rules).ClientConfig()
	if err != nil {
		return nil, err
	}
	for _, f := range certificates(reach) {
		if len(f.data) > 0 {
			*f.path = "" // what the kubeconfig itself has counts
		}
	}
	if err := rest.LoadTLSFiles(reach); err != nil {
		return nil, fmt.Errorf("read a file that kubeconfig %s names: %w", c.Kubeconfig, err)
	}
	if _, err := rest.TLSConfigFor(reach); err != nil {
		return nil, fmt.Errorf("read certificates of kubeconfig %s: %w", c.Kubeconfig, err)
	}
	return reach, nil
}

// certificate is one of a config, or a key, and the file that it is from.
type certificate struct {
	path *string // empty if it is from none
	data []byte
}

func certificates(c *rest.Config) []certificate {
	tls := &c.TLSClientConfig
	return []certificate{{&tls.CAFile, tls.CAData}, {&tls.CertFile, tls.CertData}, {&tls.KeyFile, tls.KeyData}}
}

// reached is a cluster of the config and how it is reached.
type reached struct {
	kube.Cluster
	from Cluster
	text []byte // of its kubeconfig
	// renewed takes another way to reach it, for who else asks its API server; nil if
	// nobody does.
	renewed chan *rest.Config
}

// followKubeconfig reaches a cluster in another way when its kubeconfig, or a certificate
// there, says so, until ctx ends. A file that makes no sense leaves it as it is.
func (k clusters) followKubeconfig(ctx context.Context, c reached) {
	log := k.log.With("cluster", c.Name, "kubeconfig", c.from.Kubeconfig)
	tick := time.NewTicker(kubeconfigInterval)
	defer tick.Stop()
	var told string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		changed, err := c.reread()
		if err == nil && changed {
			err = k.source.Set(ctx, c.Cluster)
		}
		switch {
		case err != nil && err.Error() != told:
			log.Warn("a kubeconfig makes no sense; its cluster stays as it is", "err", err, "hint", "write it anew, or the file that it names: they are looked at every second")
			told = err.Error()
		case err == nil:
			told = ""
		}
		if err != nil || !changed {
			continue
		}
		log.Info("a kubeconfig has changed, or a certificate that it names: list the cluster anew")
		if c.renewed != nil {
			select {
			case c.renewed <- c.Rest:
			case <-ctx.Done():
			}
		}
	}
}

// reread reads the kubeconfig if it has changed, or a certificate that it names as a file.
// A token that it names so is read again by client-go, which needs no new list for it.
func (c *reached) reread() (changed bool, err error) {
	text, err := os.ReadFile(c.from.Kubeconfig)
	if err != nil {
		return false, fmt.Errorf("read kubeconfig: %w", err)
	}
	changed = !bytes.Equal(text, c.text)
	for _, f := range certificates(c.Rest) {
		if changed || *f.path == "" {
			continue
		}
		data, err := os.ReadFile(*f.path)
		if err != nil {
			return false, fmt.Errorf("read a file that the kubeconfig names: %w", err)
		}
		changed = !bytes.Equal(data, f.data)
	}
	if !changed {
		return false, nil
	}
	reach, err := c.from.reach()
	if err != nil {
		return false, err
	}
	c.text, c.Rest = text, reach
	return true, nil
}
