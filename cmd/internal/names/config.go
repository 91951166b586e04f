// SPDX-License-Identifier: Apache-2.0

package names

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/dnsteer/dnsteer/cmd/internal/names/istio"
	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
)

// Config is what a file of sources says. Of a name that several have, the first one's
// records count.
type Config struct {
	Sources []Source `json:"sources"`
}

// Source is one of them: one of its fields is set.
type Source struct {
	Kubernetes *Kubernetes `json:"kubernetes"`
	MCS        *MCS        `json:"mcs"`
	Istio      *Istio      `json:"istio"`
}

// Istio is a source of the names of a mesh, by istiod.
type Istio struct {
	istio.Config
	MaxAge string `json:"maxAge"` // as of Kubernetes
}

// MCS is a source of ServiceImports of one cluster (KEP-1645).
type MCS struct {
	// Version is that of the API, v1alpha1 by default.
	Version string `json:"version"`
	TTL     uint32 `json:"ttl"`    // seconds; 5 by default
	MaxAge  string `json:"maxAge"` // as of Kubernetes
	// Cluster is whose they are; its zone is clusterset.local by default.
	Cluster Cluster `json:"cluster"`
}

// Kubernetes is a source of Services of clusters.
type Kubernetes struct {
	// Merge says whose records count where several clusters have a Service of the same
	// name in the same zone: "local-first" (the default), "union" or "remote-only".
	Merge string `json:"merge"`
	// TTL is that of the records, in seconds; 5 by default.
	TTL uint32 `json:"ttl"`
	// MaxAge is for how long the names of a cluster that is away are kept, such as
	// "24h"; for ever by default.
	MaxAge   string    `json:"maxAge"`
	Clusters []Cluster `json:"clusters"`
	// Secrets name more clusters.
	Secrets *Secrets `json:"secrets"`

	imports string // as of kube.Config
}

// Cluster is one cluster.
type Cluster struct {
	Name string `json:"name"`
	// Local is the cluster that the clients are in. Without a kubeconfig its API server
	// is reached by the ServiceAccount of our own pod.
	Local      bool   `json:"local"`
	Kubeconfig string `json:"kubeconfig"`
	Context    string `json:"context"`
	// Zones are the domains of its names; "cluster.local" by default for the local one.
	Zones []string `json:"zones"`
	// Authority are those of Zones in which there is nothing but Services, so that what is
	// not among them does not exist and nobody is asked.
	Authority []string `json:"authority"`
	// Reverse lets its addresses give names back; by default those of the local one do.
	Reverse *bool `json:"reverse"`
}

// Secrets are those labelled istio/multiCluster=true in one namespace.
type Secrets struct {
	// Cluster is the name of one of the clusters: the Secrets are there.
	Cluster   string `json:"cluster"`
	Namespace string `json:"namespace"`
	// Zones are those of each cluster; "{cluster}" stands for its name.
	Zones     []string `json:"zones"`
	Authority []string `json:"authority"` // as of Cluster
	Reverse   bool     `json:"reverse"`
}

// ReadConfig reads a file of sources. What it does not understand it refuses.
func ReadConfig(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read sources: %w", err)
	}
	c := new(Config)
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return nil, fmt.Errorf("read sources: %s: %w", path, err)
	}
	for i, s := range c.Sources {
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("read sources: %s: source %d: %w", path, i+1, err)
		}
	}
	return c, nil
}

func (s Source) check() error {
	kinds := 0
	for _, is := range []bool{s.Kubernetes != nil, s.MCS != nil, s.Istio != nil} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return errors.New("it is of two kinds: want kubernetes, mcs or istio")
	case s.Kubernetes != nil:
		return s.Kubernetes.check()
	case s.MCS != nil:
		return s.MCS.kubernetes().check()
	case s.Istio != nil:
		return s.Istio.check()
	}
	return errors.New("it is of no kind: want kubernetes, mcs or istio")
}

func (i *Istio) check() error {
	if _, err := parseAge(i.MaxAge); err != nil {
		return err
	}
	return i.Config.Check()
}

// kubernetes is an MCS source in the words of the other one.
func (m *MCS) kubernetes() *Kubernetes {
	c := m.Cluster
	if len(c.Zones) == 0 {
		c.Zones = []string{kube.ImportZone}
	}
	return &Kubernetes{TTL: m.TTL, MaxAge: m.MaxAge, Clusters: []Cluster{c}, imports: cmp.Or(m.Version, kube.ImportVersion)}
}

func (k *Kubernetes) check() error {
	if _, err := kube.ParseMerge(k.Merge); err != nil {
		return err
	}
	if _, err := parseAge(k.MaxAge); err != nil {
		return err
	}
	if len(k.Clusters) == 0 {
		return errors.New("kubernetes has no clusters")
	}
	named := make(map[string]bool)
	for _, c := range k.Clusters {
		switch {
		case c.Name == "":
			return errors.New("a cluster has no name")
		case named[c.Name]:
			return fmt.Errorf("cluster %s is there twice", c.Name)
		case len(c.zones()) == 0:
			return fmt.Errorf("cluster %s has no zones: want the domains of its names, such as %s.example.org", c.Name, c.Name)
		case c.Kubeconfig == "" && !c.Local:
			return fmt.Errorf("cluster %s has no kubeconfig, and is not the local one", c.Name)
		}
		if err := k.checkAuthority("cluster "+c.Name, c.zones(), c.Authority); err != nil {
			return err
		}
		named[c.Name] = true
	}
	if s := k.Secrets; s != nil {
		switch {
		case !named[s.Cluster]:
			return fmt.Errorf("secrets are in cluster %q, which is none of the clusters", s.Cluster)
		case s.Namespace == "":
			return errors.New("secrets have no namespace: istio-system, usually")
		case len(s.Zones) == 0:
			return errors.New("secrets have no zones: cluster.local, or \"{cluster}.example.org\"")
		}
		return k.checkAuthority("clusters of secrets", s.Zones, s.Authority)
	}
	return nil
}

// checkAuthority refuses to be the authority of what others know more of: the local
// cluster's own DNS has names of its zones that are no Services.
func (k *Kubernetes) checkAuthority(who string, zones, authority []string) error {
	for _, zone := range authority {
		if !slices.Contains(zones, zone) {
			return fmt.Errorf("%s: authority %s is none of its zones", who, zone)
		}
		isLocal := func(c Cluster) bool {
			return c.Local && slices.ContainsFunc(c.zones(), func(local string) bool { return isBelow(local, zone) })
		}
		if k.imports == "" && slices.ContainsFunc(k.Clusters, isLocal) {
			return fmt.Errorf("%s: authority %s has a zone of the local cluster, whose own DNS has more names in it", who, zone)
		}
	}
	return nil
}

// isBelow reports whether a zone is another one or in it.
func isBelow(zone, other string) bool {
	fold := func(s string) string { return "." + strings.ToLower(strings.TrimSuffix(s, ".")) }
	return strings.HasSuffix(fold(zone), fold(other))
}

// parseAge reads a maxAge; none is for ever.
func parseAge(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("maxAge is %q, not a duration such as 24h", text)
	}
	return d, nil
}

func (c Cluster) zones() []string {
	if len(c.Zones) == 0 && c.Local {
		return []string{"cluster.local"}
	}
	return c.Zones
}
