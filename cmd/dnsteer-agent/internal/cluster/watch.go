// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// Options say which cluster, and what of it.
type Options struct {
	// Kubeconfig is a file; empty means the service account of the pod that we run in.
	Kubeconfig string
	// Node is the name of the node whose pods are watched.
	Node string
	// Self is the UID of the pod that we run in, empty if it is none. See AwaitRemoved.
	Self string
	// DNS selects the cluster's nameservers among the pods, by their labels.
	DNS string
	Log *slog.Logger
}

// syncPatience is for an API server that is only slow.
const syncPatience = 5 * time.Second

// Cluster holds what the API server tells. It is safe for concurrent use.
type Cluster struct {
	opts    Options
	dns     labels.Selector
	client  metadata.Interface
	changed chan struct{}

	pods, namespaces cache.SharedIndexInformer

	mu      sync.Mutex
	failing map[schema.GroupVersionResource]string      // what was logged last
	owners  atomic.Pointer[[]cache.SharedIndexInformer] // of our pod; nil while it is not known
}

// Open reads the options. It asks the API server nothing yet.
func Open(o Options) (*Cluster, error) {
	dns, err := labels.Parse(o.DNS)
	if err != nil {
		return nil, fmt.Errorf("select the pods of the cluster's DNS: %w", err)
	}
	if o.DNS == "" {
		dns = labels.Nothing()
	}
	// Without a file it is the service account, and without one an error that names both.
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("find API server: %w", err)
	}
	config.UserAgent = "dnsteer-agent"
	client, err := metadata.NewForConfig(metadata.ConfigFor(rest.CopyConfig(config)))
	if err != nil {
		return nil, fmt.Errorf("find API server: %w", err)
	}
	klog.SetSlogLogger(o.Log.With("of", "client-go")) // which logs by itself
	c := &Cluster{
		opts: o, dns: dns, client: client, changed: make(chan struct{}, 1),
		failing: make(map[schema.GroupVersionResource]string),
	}
	c.pods = c.informer(pods, "", func(l *metav1.ListOptions) {
		l.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", o.Node).String()
	})
	// Of the namespaces only those that say something.
	c.namespaces = c.informer(namespaces, "", func(l *metav1.ListOptions) { l.LabelSelector = Steer })
	return c, nil
}

// Run watches until ctx ends. An API server that is away is asked again and again; what
// was known before stays known.
func (c *Cluster) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { c.pods.RunWithContext(ctx) })
	all.Go(func() { c.namespaces.RunWithContext(ctx) })
	// A connection that is refused is tried again in silence.
	defer time.AfterFunc(syncPatience, func() {
		if !c.Synced() {
			c.opts.Log.Warn("the API server has told nothing yet; go by what is known")
		}
	}).Stop()
	if c.opts.Self != "" {
		all.Go(func() { c.watchOwner(ctx) })
	}
	all.Wait()
}

// Changed tells that something may have changed since it was last received from.
func (c *Cluster) Changed() <-chan struct{} { return c.changed }

// Synced tells whether the API server has told of everything once.
func (c *Cluster) Synced() bool { return c.pods.HasSynced() && c.namespaces.HasSynced() }

// Pod returns a pod of the node by its UID, false if it is not known, or not yet.
func (c *Cluster) Pod(uid string) (Pod, bool) {
	found, err := c.pods.GetIndexer().ByIndex(byUID, uid)
	if err != nil || len(found) == 0 || !c.namespaces.HasSynced() {
		return Pod{}, false
	}
	m, ok := found[0].(*metav1.PartialObjectMetadata)
	if !ok {
		return Pod{}, false
	}
	p := newPod(m, c.dns)
	if n, ok, _ := c.namespaces.GetIndexer().GetByKey(p.Namespace); ok {
		p.NamespaceSteer = n.(*metav1.PartialObjectMetadata).Labels[Steer]
	}
	return p, true
}

// informer watches the objects of one kind that narrow leaves.
func (c *Cluster) informer(kind schema.GroupVersionResource, namespace string, narrow func(*metav1.ListOptions)) cache.SharedIndexInformer {
	resource := c.client.Resource(kind).Namespace(namespace)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			narrow(&o)
			return resource.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			narrow(&o)
			return resource.Watch(ctx, o)
		},
	}
	informer := cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(lw, c.client),
		&metav1.PartialObjectMetadata{}, 0, cache.Indexers{byUID: indexUID})
	_ = informer.SetTransform(keep) // fails only once it runs
	_ = informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) { c.report(ctx, kind, err) })
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.notify(kind) },
		UpdateFunc: func(_, _ any) { c.notify(kind) },
		DeleteFunc: func(any) { c.notify(kind) },
	})
	return informer
}

// isGoing tells of an object that is being deleted after those that depend on it.
func isGoing(object any) bool {
	m, ok := object.(*metav1.PartialObjectMetadata)
	return ok && m.DeletionTimestamp != nil
}

// notify wakes whoever receives from Changed.
func (c *Cluster) notify(kind schema.GroupVersionResource) {
	c.mu.Lock()
	delete(c.failing, kind)
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default: // one is waiting already
	}
}

// report logs an error that is another than the one before: they come every few seconds
// as long as the API server is away.
func (c *Cluster) report(ctx context.Context, kind schema.GroupVersionResource, err error) {
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing[kind] == err.Error() {
		return
	}
	c.failing[kind] = err.Error()
	c.opts.Log.Warn("the API server does not tell; go by what is known", "of", kind.Resource, "err", err)
}
