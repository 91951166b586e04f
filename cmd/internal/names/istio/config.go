// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

const (
	// DefaultTTL is that of the sidecar's DNS proxy.
	DefaultTTL = 30
	// DefaultDomain is that of clusters, unless they were installed with another one.
	DefaultDomain = "cluster.local"
	// rootNamespace is where Istio keeps what is for all of a mesh.
	rootNamespace = "istio-system"
)

// Config is how istiod is reached, who it is told that we are, and how names are made.
// The tags are those of the file of sources.
type Config struct {
	// Address is istiod's, such as istiod.istio-system.svc:15012.
	Address string `json:"address"`
	// Plaintext is for istiod's port 15010, in tests: without TLS nobody knows who
	// answers.
	Plaintext bool `json:"plaintext"`
	// RootCert is a file of the root certificates that istiod's must come from.
	RootCert string `json:"rootCert"`
	// ServerName is the name in istiod's certificate; by default that of Address.
	ServerName string `json:"serverName"`
	// Token is a file with our token, Cert and Key are files with our certificate. All
	// files are read again at each connection.
	Token string `json:"token"`
	Cert  string `json:"cert"`
	Key   string `json:"key"`

	// Namespace is the one whose view of the mesh istiod sends: what its Sidecars and
	// the exportTo of Services and ServiceEntries let it see. Istiod wants it to be that
	// of the token or certificate. By default it is that of our own pod.
	Namespace string `json:"namespace"`
	// Cluster and Network are those of the clients in Istio's words: of a Service in
	// many clusters they get the addresses of their own.
	Cluster string `json:"cluster"`
	Network string `json:"network"`
	// Domain is that of the cluster; DefaultDomain if empty.
	Domain string `json:"domain"`
	// Families are those of the clients, ipv4 and ipv6: istiod leaves out addresses of
	// others. By default it is the one in which istiod is reached.
	Families []string `json:"families"`

	// ShortNames adds name.namespace and name.namespace.svc of every Service as they
	// are, for clients without a search list.
	ShortNames bool `json:"shortNames"`
	// Reverse lets addresses give names back.
	Reverse bool   `json:"reverse"`
	TTL     uint32 `json:"ttl"` // seconds; DefaultTTL if zero
	// MaxAge is for how long names are kept while istiod is away; zero is for ever.
	MaxAge time.Duration `json:"-"`
	Logger *slog.Logger  `json:"-"`
}

// Check says what is wrong with a config.
func (c *Config) Check() error {
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		return fmt.Errorf("address is %q, not a host with a port such as istiod.istio-system.svc:15012", c.Address)
	}
	switch {
	case c.Plaintext && (c.RootCert != "" || c.Token != "" || c.Cert != "" || c.Key != ""):
		return errors.New("plaintext does not go with certificates, nor with a token that everybody could read")
	case !c.Plaintext && c.RootCert == "":
		return errors.New("there is no rootCert: want the file of the ConfigMap istio-ca-root-cert, or plaintext")
	case (c.Cert == "") != (c.Key == ""):
		return errors.New("cert and key go together")
	}
	for _, f := range c.Families {
		if f != "ipv4" && f != "ipv6" {
			return fmt.Errorf("family %q is none: want ipv4 or ipv6", f)
		}
	}
	return nil
}

func (c *Config) serverName() string {
	host, _, _ := net.SplitHostPort(c.Address)
	return cmp.Or(c.ServerName, host)
}

// setDefaults fills in what is empty.
func (c *Config) setDefaults() {
	c.TTL = cmp.Or(c.TTL, DefaultTTL)
	c.Domain = cmp.Or(c.Domain, DefaultDomain)
	c.Namespace = cmp.Or(c.Namespace, ownNamespace(), rootNamespace)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// ownNamespace is that of the pod that we are in, empty in none.
func ownNamespace() string {
	space, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(space))
}

// node is what istiod is told of us: what a sidecar in a pod of the namespace would say
// that captures DNS. Local is the address from which we reach it.
func (c *Config) node(local netip.Addr) []byte {
	addrs := c.addresses(local)
	name, err := os.Hostname()
	if err != nil {
		name = "node"
	}
	id := fmt.Sprintf("sidecar~%s~dnsteer-%s.%s~%s.svc.%s", addrs[0], name, c.Namespace, c.Namespace, c.Domain)
	return appendNode(nil, id, [][2]string{
		{"NAMESPACE", c.Namespace},
		{"CLUSTER_ID", c.Cluster},
		{"NETWORK", c.Network},
		{"INSTANCE_IPS", strings.Join(addrs, ",")},
		// What is no number is the newest.
		{"ISTIO_VERSION", "dnsteer"},
		// Without these there are no addresses of ServiceEntries that have none.
		{"DNS_CAPTURE", "true"},
		{"DNS_AUTO_ALLOCATE", "true"},
	})
}

// addresses are some of our own, one of each family: istiod looks at the families alone.
// Of a family that we have no address of, one stands for it that is nobody's (RFC 5737,
// RFC 3849).
func (c *Config) addresses(local netip.Addr) []string {
	own := map[string]string{"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}
	family := "ipv4"
	if local.Is6() {
		family = "ipv6"
	}
	if local.IsValid() {
		own[family] = local.String()
	}
	if len(c.Families) == 0 {
		return []string{own[family]}
	}
	var addrs []string
	for _, f := range c.Families {
		addrs = append(addrs, own[f])
	}
	return addrs
}
