// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Objects are fetched as protobuf, which costs a fifth of JSON to read.
const protobuf = "application/vnd.kubernetes.protobuf"

// How soon an API server is asked again, with as much again at random: a resolver is on
// every node, and all of them lose it at the same moment.
const (
	backoff    = 200 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// lateAfter is how long an API server may be silent before that is told.
const lateAfter = 10 * time.Second

var errLate = fmt.Errorf("no answer from its API server for %v", lateAfter)

// newScheme knows the kinds that are watched. All kinds of Kubernetes would be
// megabytes of program.
func newScheme(group schema.GroupVersion) *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err) // a kind twice, in our own list
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	if group.Group == importGroup {
		addImports(scheme, group.Version)
	}
	return scheme
}

// client asks for the kinds of one group.
func client(config *rest.Config, group schema.GroupVersion) (rest.Interface, error) {
	scheme := newScheme(group)
	c := rest.CopyConfig(config)
	c.GroupVersion = &group
	c.APIPath = "/apis"
	if group.Group == "" {
		c.APIPath = "/api"
	}
	c.ContentType, c.AcceptContentTypes = protobuf, protobuf+",application/json"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	if c.UserAgent == "" {
		c.UserAgent = "dnsteer"
	}
	return rest.RESTClientFor(c)
}

// watched is one kind of objects, or some of them, and what becomes of each.
type watched struct {
	kind     string // for messages
	group    schema.GroupVersion
	resource string
	space    string // a namespace; empty for all
	selector string // of labels
	object   runtime.Object
	// set keeps an object, or forgets it where it is nil.
	set func(k key, o runtime.Object)
	// known are those that are kept.
	known func() iter.Seq[key]
}

// listener hears how listing and watching go.
type listener interface {
	heard(kind string)
	failed(kind string, err error)
	// listed is told once of each kind, when all of it is there.
	listed(kind string)
	// locked runs f with what is kept guarded.
	locked(f func())
}

// run lists and watches until ctx ends, whatever goes wrong.
func (w watched) run(ctx context.Context, config *rest.Config, to listener) error {
	c, err := client(config, w.group)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", w.kind, err)
	}
	request := func(o metav1.ListOptions) *rest.Request {
		o.LabelSelector = w.selector
		// What fails is told at once, and tried again by the reflector. A request would do so
		// without a word, ten times, each after as long as the API server bids it wait.
		return c.Get().Namespace(w.space).Resource(w.resource).VersionedParams(&o, metav1.ParameterCodec).MaxRetries(0)
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (list runtime.Object, err error) {
			err = w.ask(to, func() error {
				list, err = request(o).Do(ctx).Get()
				return err
			})
			return list, w.note(to, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (stream watch.Interface, err error) {
			o.Watch = true
			err = w.ask(to, func() error {
				stream, err = request(o).Watch(ctx)
				return err
			})
			if o.SendInitialEvents != nil && apierrors.IsInvalid(err) {
				return stream, err // before Kubernetes 1.32; it is listed instead
			}
			return stream, w.note(to, err)
		},
	}
	quiet := klog.New(nil) // what goes wrong is told by us, once
	r := cache.NewReflectorWithOptions(lw, w.object, &store{watched: w, to: to},
		cache.ReflectorOptions{Name: w.kind, Logger: &quiet, Backoff: &wait.Backoff{
			Duration: backoff, Factor: 2, Jitter: 1, Steps: 100, Cap: maxBackoff,
		}})
	r.RunWithContext(klog.NewContext(ctx, quiet))
	return nil
}

// ask waits for an answer, and tells if it is late.
func (w watched) ask(to listener, question func() error) error {
	told := make(chan struct{})
	late := time.AfterFunc(lateAfter, func() {
		defer close(told)
		to.failed(w.kind, errLate)
	})
	err := question()
	if !late.Stop() {
		<-told // before what is told of the answer
	}
	return err
}

func (w watched) note(to listener, err error) error {
	if err == nil {
		to.heard(w.kind)
		return nil
	}
	to.failed(w.kind, err)
	return err
}

// store passes on what a reflector finds. It keeps nothing.
type store struct {
	watched
	to     listener
	listed bool
}

var _ cache.ReflectorStore = (*store)(nil)

var errObject = errors.New("the API server sent an object of another kind")

func keyOf(object any) (key, runtime.Object, error) {
	m, ok := object.(metav1.Object)
	o, isObject := object.(runtime.Object)
	if !ok || !isObject {
		return key{}, nil, errObject
	}
	// Thousands of objects are of the same namespace.
	return key{unique.Make(m.GetNamespace()).Value(), m.GetName()}, o, nil
}

// Add implements cache.ReflectorStore.
func (s *store) Add(object any) error {
	k, o, err := keyOf(object)
	if err != nil {
		return err
	}
	s.to.locked(func() { s.set(k, o) })
	return nil
}

// Update implements cache.ReflectorStore.
func (s *store) Update(object any) error { return s.Add(object) }

// Delete implements cache.ReflectorStore.
func (s *store) Delete(object any) error {
	k, _, err := keyOf(object)
	if err != nil {
		return err
	}
	s.to.locked(func() { s.set(k, nil) })
	return nil
}

// Replace implements cache.ReflectorStore: all is listed, for the first time or again,
// because a watch was too far behind.
func (s *store) Replace(objects []any, _ string) error {
	s.to.locked(func() {
		stay := make(map[key]bool, len(objects))
		for i, object := range objects {
			k, o, err := keyOf(object)
			if err != nil {
				continue
			}
			stay[k] = true
			s.set(k, o)
			objects[i] = nil // what is kept of it is little
		}
		var gone []key
		for k := range s.known() {
			if !stay[k] {
				gone = append(gone, k)
			}
		}
		for _, k := range gone {
			s.set(k, nil)
		}
	})
	if !s.listed {
		s.listed = true
		s.to.listed(s.kind)
	}
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *store) Resync() error { return nil }
