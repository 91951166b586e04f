// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// health says whether a cluster is heard.
type health struct {
	mu      sync.Mutex
	failing map[string]string // by kind, what went wrong last
	since   time.Time         // when the first of them began to fail
}

// heard notes that a kind is listed or watched again.
func (c *cluster) heard(kind string) {
	c.mu.Lock()
	_, away := c.failing[kind]
	delete(c.failing, kind)
	back, since := away && len(c.failing) == 0, c.since
	c.mu.Unlock()
	if back {
		c.log.Info("the cluster is back", "away", time.Since(since).Round(time.Millisecond))
		c.source.revive(c)
	}
}

// failed notes what went wrong with a kind. It is logged when it is news.
func (c *cluster) failed(kind string, err error) {
	if errors.Is(err, context.Canceled) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return // it ends, or lists again
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failing) == 0 {
		c.since = time.Now()
	}
	text := gist(err)
	if c.failing[kind] != text {
		c.log.Warn("the cluster is away; its names stay as they were", "kind", kind, "err", text, "hint", hint(err))
	}
	c.failing[kind] = text
}

// gist is an error without what is another at each try: the parameters of the question, and
// ports of ours.
func gist(err error) string {
	var asked *url.Error
	if errors.As(err, &asked) {
		err = asked.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Sprintf("%s %s %v: %v", op.Op, op.Net, op.Addr, op.Err)
	}
	return err.Error()
}

// away is for how long the cluster has not been heard, 0 if it is.
func (c *cluster) away() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failing) == 0 {
		return 0
	}
	return max(time.Since(c.since), 1)
}

// why is what went wrong last, empty while the cluster is heard.
func (c *cluster) why() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var texts []string
	for kind, text := range c.failing {
		texts = append(texts, kind+": "+text)
	}
	slices.Sort(texts)
	return strings.Join(texts, "; ")
}

// hint is the remedy for what is wrong with a cluster.
func hint(err error) string {
	text := err.Error()
	switch {
	case apierrors.IsUnauthorized(err):
		return "its API server does not accept the credentials: renew them"
	case apierrors.IsForbidden(err):
		return "allow get, list and watch of it in all namespaces"
	case apierrors.IsNotFound(err):
		return "its API server does not have this kind: install it there, or leave this source out"
	case errors.Is(err, errLate):
		return "see whether its address is right and the network lets us through; or it has much to do"
	case strings.Contains(text, "x509:") || strings.Contains(text, "tls:"):
		return "its certificate is not one that the kubeconfig trusts"
	}
	return "it is asked again, less and less often"
}

// words say where its records come from.
func (c *cluster) words() string {
	if away := c.away(); away > 0 {
		return fmt.Sprintf("%s (away for %s)", c.Name, away.Round(time.Second))
	}
	return c.Name
}
