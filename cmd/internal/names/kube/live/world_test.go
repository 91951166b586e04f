// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
	"github.com/dnsteer/dnsteer/resolver"
	testkube "github.com/dnsteer/dnsteer/test/kube"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

// patience is for what takes milliseconds on a machine that has nothing else to do.
const patience = time.Minute

// plane is a control plane and who writes to it.
type plane struct {
	*testkube.ControlPlane
	config         *rest.Config
	core, discover rest.Interface
}

func newPlane(t testing.TB) *plane {
	t.Helper()
	p := &plane{ControlPlane: testkube.Start(t)}
	var err error
	if p.config, err = clientcmd.BuildConfigFromFlags("", p.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	p.config.QPS = -1
	p.core = client(t, p.config, "/api", corev1.SchemeGroupVersion)
	p.discover = client(t, p.config, "/apis", discoveryv1.SchemeGroupVersion)
	return p
}

// number is that of an environment variable, or else a small one.
func number(t testing.TB, variable string, small int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return small
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		t.Fatalf("%s is %q, not a number", variable, text)
	}
	return n
}

// client knows two groups of kinds; one that knows all takes minutes to compile.
func client(t testing.TB, config *rest.Config, path string, group schema.GroupVersion) rest.Interface {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), discoveryv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	c := rest.CopyConfig(config)
	c.APIPath, c.GroupVersion = path, &group
	c.ContentType = "application/vnd.kubernetes.protobuf"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	made, err := rest.RESTClientFor(c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// write replaces an object or creates it.
func (p *plane) write(t testing.TB, c rest.Interface, resource string, o interface {
	runtime.Object
	metav1.Object
}) {
	t.Helper()
	ctx := context.Background()
	o.SetResourceVersion("")
	err := c.Put().Namespace(o.GetNamespace()).Resource(resource).Name(o.GetName()).Body(o).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		err = c.Post().Namespace(o.GetNamespace()).Resource(resource).Body(o).Do(ctx).Error()
	}
	if err != nil {
		t.Fatalf("write %s %s/%s: %v", resource, o.GetNamespace(), o.GetName(), err)
	}
}

func (p *plane) remove(t testing.TB, c rest.Interface, resource, name string) {
	t.Helper()
	err := c.Delete().Namespace("default").Resource(resource).Name(name).Do(context.Background()).Error()
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatalf("delete %s %s: %v", resource, name, err)
	}
}

// service writes a headless Service whose one slice has these addresses: what a test
// can change at will, where cluster IPs stay.
func (p *plane) service(t testing.TB, name string, addrs ...string) {
	t.Helper()
	p.write(t, p.core, "services", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}})
	p.endpoints(t, name, addrs...)
}

func (p *plane) endpoints(t testing.TB, name string, addrs ...string) {
	t.Helper()
	p.write(t, p.discover, "endpointslices", sliceOf(name, true, addrs))
}

// sliceOf is the slice of a Service as the controller has it, which marks those of
// headless ones.
func sliceOf(name string, headless bool, addrs []string) *discoveryv1.EndpointSlice {
	labels := map[string]string{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}
	if headless {
		labels[corev1.IsHeadlessService] = ""
	}
	port, portName := int32(80), "http"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name + "-1", Labels: labels},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
	}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return s
}

// bench is a source, and a resolver that follows it, on loopback.
type bench struct {
	source *kube.Source
	layer  *resolver.Layer
	addr   netip.AddrPort
	log    *testenv.LogBook
	ctx    context.Context
}

func newBench(t testing.TB, c kube.Config) *bench {
	t.Helper()
	b := &bench{log: new(testenv.LogBook)}
	c.Logger = slog.New(slog.NewTextHandler(b.log, nil))
	all := resolver.NewNames()
	b.layer = all.AddLayer("kubernetes")
	b.source = kube.NewSource(b.layer, c)
	server, err := resolver.New(resolver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	all.Follow(server)
	var cancel context.CancelFunc
	b.ctx, cancel = context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() { b.source.Run(b.ctx) })
	var l resolver.Listeners
	l, b.addr = listen(t)
	running.Go(func() {
		if err := server.Serve(b.ctx, l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return b
}

func listen(t testing.TB) (resolver.Listeners, netip.AddrPort) {
	t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netip.ParseAddrPort(udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return resolver.Listeners{UDP: []*net.UDPConn{udp}}, addr
}

// answer asks for a name: its records without owner and TTL, sorted, and where they
// come from. What is not in the table fails: there is nobody to ask.
func (b *bench) answer(t testing.TB, name, qtype string) (records []string, origin string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, err := resolver.Query(ctx, b.addr, name, qtype, false)
	if err != nil {
		t.Fatal(err)
	}
	if a.Rcode != "NOERROR" {
		return []string{a.Rcode}, ""
	}
	for _, r := range a.Records {
		records = append(records, strings.Join(strings.Fields(r)[4:], " "))
	}
	slices.Sort(records)
	return records, a.Origin
}

// eventually waits until a name has exactly these records, and returns their origin.
func (b *bench) eventually(t testing.TB, name, qtype string, want ...string) (origin string) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		var got []string
		if got, origin = b.answer(t, name, qtype); !slices.Equal(got, want) {
			return fmt.Errorf("%s %s is %q, want %q; log:\n%s", name, qtype, got, want, b.log)
		}
		return nil
	})
	return origin
}

// set adds a cluster to the source.
func (b *bench) set(t testing.TB, c kube.Cluster) {
	t.Helper()
	if err := b.source.Set(b.ctx, c); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
