// SPDX-License-Identifier: Apache-2.0

package live

import (
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
)

// planes starts control planes side by side.
func planes(t *testing.T, n int) []*plane {
	t.Helper()
	all := make([]*plane, n)
	var starting sync.WaitGroup
	for i := range all {
		starting.Go(func() { all[i] = newPlane(t) })
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// Two clusters with a zone of their own each and one that they share: what the
// specification says, where it comes from, and what becomes of it when one goes away and
// comes back.
func TestTwoClusters(t *testing.T) {
	both := planes(t, 2)
	here, east := both[0], both[1]
	here.service(t, "web", "192.0.2.1")
	east.service(t, "web", "192.0.2.2")
	east.service(t, "db", "192.0.2.3", "192.0.2.4")
	east.write(t, east.core, "services", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "ip"},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.7.7", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}})
	east.write(t, east.core, "services", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "alias"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "ip.default.svc.east.example.org"}})

	b := newBench(t, kube.Config{})
	b.set(t, kube.Cluster{Name: "here", Local: true, Zones: []string{"cluster.local"}, Reverse: true, Rest: here.config})
	b.set(t, kube.Cluster{Name: "east", Zones: []string{"cluster.local", "east.example.org"}, Rest: east.config})

	if origin := b.eventually(t, "ip.default.svc.cluster.local", "A", "10.96.7.7"); origin != "table kubernetes east" {
		t.Errorf("origin %q", origin)
	}
	b.eventually(t, "ip.default.svc.east.example.org", "A", "10.96.7.7")
	b.eventually(t, "alias.default.svc.east.example.org", "A", "10.96.7.7", "ip.default.svc.east.example.org.")
	if origin := b.eventually(t, "web.default.svc.cluster.local", "A", "192.0.2.1"); origin != "table kubernetes here" {
		t.Errorf("local first: origin %q", origin)
	}
	b.eventually(t, "web.default.svc.east.example.org", "A", "192.0.2.2")
	b.eventually(t, "db.default.svc.cluster.local", "A", "192.0.2.3", "192.0.2.4")
	b.eventually(t, "192-0-2-4.db.default.svc.cluster.local", "A", "192.0.2.4")
	b.eventually(t, "_http._tcp.db.default.svc.cluster.local", "SRV",
		"0 100 80 192-0-2-3.db.default.svc.cluster.local.", "0 100 80 192-0-2-4.db.default.svc.cluster.local.")
	b.eventually(t, "_http._tcp.ip.default.svc.cluster.local", "SRV", "0 100 80 ip.default.svc.cluster.local.")
	b.eventually(t, "1.2.0.192.in-addr.arpa", "PTR", "192-0-2-1.web.default.svc.cluster.local.")
	b.eventually(t, "3.2.0.192.in-addr.arpa", "PTR", "SERVFAIL") // an address of another cluster
	b.eventually(t, "dns-version.east.example.org", "TXT", `"1.1.0"`)
	b.eventually(t, "web.default.svc.cluster.local", "AAAA")

	t.Run("changes", func(t *testing.T) {
		here.endpoints(t, "web")
		if origin := b.eventually(t, "web.default.svc.cluster.local", "A", "192.0.2.2"); origin != "table kubernetes east" {
			t.Errorf("nothing behind it here: origin %q", origin)
		}
		here.endpoints(t, "web", "192.0.2.9")
		b.eventually(t, "web.default.svc.cluster.local", "A", "192.0.2.9")
		east.remove(t, east.core, "services", "db")
		b.eventually(t, "db.default.svc.cluster.local", "A", "SERVFAIL")
		b.eventually(t, "192-0-2-4.db.default.svc.cluster.local", "A", "SERVFAIL")
	})

	t.Run("away and back", func(t *testing.T) {
		east.KillAPIServer()
		b.log.Saw(t, patience, `msg="the cluster is away; its names stay as they were" cluster=east`)
		origin := b.eventually(t, "ip.default.svc.cluster.local", "A", "10.96.7.7")
		if !strings.HasPrefix(origin, "table kubernetes east (away for ") {
			t.Errorf("origin %q", origin)
		}
		for _, st := range b.source.Status() {
			if (st.Away > 0) != (st.Name == "east") || (st.Error != "") != (st.Name == "east") {
				t.Errorf("status: %+v", st)
			}
		}
		// No cluster waits for another.
		here.service(t, "new", "192.0.2.20")
		b.eventually(t, "new.default.svc.cluster.local", "A", "192.0.2.20")

		east.StartAPIServer()
		b.log.Saw(t, patience, `msg="the cluster is back" cluster=east`)
		east.service(t, "db", "192.0.2.30")
		origin = b.eventually(t, "db.default.svc.cluster.local", "A", "192.0.2.30")
		if origin != "table kubernetes east" {
			t.Errorf("origin %q", origin)
		}
	})

	t.Run("removed", func(t *testing.T) {
		b.source.Remove("east")
		b.eventually(t, "ip.default.svc.cluster.local", "A", "SERVFAIL")
		b.eventually(t, "dns-version.east.example.org", "TXT", "SERVFAIL")
		b.eventually(t, "web.default.svc.cluster.local", "A", "192.0.2.9")
	})
}
