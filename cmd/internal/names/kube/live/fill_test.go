// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
)

// stored is an object with where etcd has it.
type stored struct {
	key    string
	group  schema.GroupVersion
	object runtime.Object
}

// store writes objects into etcd as the API server does.
func (p *plane) store(t testing.TB, objects iter.Seq[stored]) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), discoveryv1.AddToScheme(scheme), networkingv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		t.Fatal("nobody writes protocol buffers")
	}
	p.Store(func(yield func(string, []byte) bool) {
		for o := range objects {
			value, err := runtime.Encode(codecs.EncoderForVersion(info.Serializer, o.group), o.object)
			if err != nil {
				t.Fatal(err)
			}
			if !yield("/registry/"+o.key, value) {
				return
			}
		}
	})
}

// many are Services with ten endpoints each, of which every fifth is headless, and what
// the API server and controllers write with them.
func many(n int) iter.Seq[stored] {
	return func(yield func(stored) bool) {
		for i := range n {
			name, ip, headless := fmt.Sprint("service-", i), corev1.ClusterIPNone, i%headlessEvery == 0
			if !headless {
				// Behind those that the API server takes at its start.
				ip = netip.AddrFrom4([4]byte{10, 96, byte(1 + i>>8), byte(i)}).String()
			}
			addrs := make([]string, endpointsEach)
			for e := range addrs {
				addrs[e] = netip.AddrFrom4([4]byte{10, byte(128 + i>>12), byte(i >> 4), byte(i<<4 | e)}).String()
			}
			if !yield(storedService(name, ip)) || !yield(storedSlice(name, headless, addrs)) || !headless && !yield(storedAddress(name, ip)) {
				return
			}
		}
	}
}

func storedMeta(kind, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(kind + "-" + name), CreationTimestamp: metav1.NewTime(time.Now())}
}

func storedService(name, ip string) stored {
	single, inside := corev1.IPFamilyPolicySingleStack, corev1.ServiceInternalTrafficPolicyCluster
	return stored{"services/specs/default/" + name, corev1.SchemeGroupVersion, &corev1.Service{
		ObjectMeta: storedMeta("service", name),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: &single, InternalTrafficPolicy: &inside,
			SessionAffinity: corev1.ServiceAffinityNone, Selector: map[string]string{"app": name},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}}
}

// storedSlice is what the EndpointSlice controller writes of a Service's pods.
func storedSlice(name string, headless bool, addrs []string) stored {
	s := sliceOf(name, headless, addrs)
	s.ObjectMeta.UID, s.CreationTimestamp = types.UID("slice-"+name), metav1.NewTime(time.Now())
	yes, no := true, false
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		pod, node := fmt.Sprintf("%s-%d", name, i), fmt.Sprint("node-", i)
		e.Conditions = discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no}
		e.NodeName, e.TargetRef = &node, &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: pod, UID: types.UID("pod-" + pod)}
	}
	return stored{"endpointslices/default/" + s.Name, discoveryv1.SchemeGroupVersion, s}
}

// storedAddress is what the API server remembers of a cluster IP that it has given.
func storedAddress(name, ip string) stored {
	o := &networkingv1.IPAddress{ObjectMeta: storedMeta("address", ip),
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: name}}}
	o.Namespace = ""
	o.Labels = map[string]string{networkingv1.LabelIPAddressFamily: string(corev1.IPv4Protocol), networkingv1.LabelManagedBy: "ipallocator.k8s.io"}
	return stored{"ipaddresses/" + ip, networkingv1.SchemeGroupVersion, o}
}

// What was stored past the API server is to it as if it had written it: it tells, changes and
// removes it, and gives no address twice.
func TestStored(t *testing.T) {
	p := newPlane(t)
	b := newBench(t, kube.Config{})
	b.set(t, kube.Cluster{Name: "east", Zones: []string{"east.example.org"}, Rest: p.config})
	const ip = "10.96.7.7"
	p.store(t, func(yield func(stored) bool) {
		for _, o := range []stored{storedService("ip", ip), storedAddress("ip", ip), storedService("web", corev1.ClusterIPNone),
			storedSlice("web", true, []string{"192.0.2.1", "192.0.2.2"})} {
			if !yield(o) {
				return
			}
		}
	})
	b.eventually(t, "ip.default.svc.east.example.org", "A", ip)
	b.eventually(t, "web.default.svc.east.example.org", "A", "192.0.2.1", "192.0.2.2")
	if out, err := p.TryKubectl("create", "service", "clusterip", "thief", "--clusterip="+ip, "--tcp=80"); err == nil || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("the address is given twice: %s %v", out, err)
	}
	p.endpoints(t, "web", "192.0.2.3")
	b.eventually(t, "web.default.svc.east.example.org", "A", "192.0.2.3")
	p.remove(t, p.core, "services", "ip")
	b.eventually(t, "ip.default.svc.east.example.org", "A", "SERVFAIL")
	p.Kubectl("create", "service", "clusterip", "heir", "--clusterip="+ip, "--tcp=80")
	b.eventually(t, "heir.default.svc.east.example.org", "A", ip)
}
