// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/test/istiod"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// questions is an application: it asks a nameserver, over udp or tcp, each "name type",
// and prints what it hears.
func questions(args []string) int {
	client := &dns.Client{Net: args[0], Timeout: 10 * time.Second}
	for _, question := range args[2:] {
		name, qtype, _ := strings.Cut(question, " ")
		m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[qtype])
		got, _, err := client.Exchange(m, net.JoinHostPort(args[1], "53"))
		if err != nil {
			fmt.Printf("%s: %v\n", question, err)
			continue
		}
		var said []string
		for _, rr := range got.Answer {
			said = append(said, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
		slices.Sort(said)
		fmt.Printf("%s: %s %s\n", question, dns.RcodeToString[got.Rcode], strings.Join(said, " "))
	}
	return 0
}

// meshOf is a mesh as istiod tells of it: a Service of both families, a headless one, a
// ServiceEntry with allotted addresses, a wildcard.
func meshOf(reviews string) map[string]istiod.Info {
	return map[string]istiod.Info{
		"reviews.shop.svc.cluster.local": istiod.Kubernetes("reviews", "shop", reviews, "2001:db8::10"),
		"reviews.blog.svc.cluster.local": istiod.Kubernetes("reviews", "blog", "192.0.2.11"),
		"db.shop.svc.cluster.local":      istiod.Kubernetes("db", "shop", "192.0.2.21", "192.0.2.22"),
		"db-1.db.shop.svc.cluster.local": istiod.Kubernetes("db-1.db", "shop", "192.0.2.22"),
		"pay.example.org":                istiod.External("240.240.0.1", "2001:2::1"),
		"*.apps.example.org":             istiod.External("192.0.2.50"),
	}
}

// The names of a mesh, from an ADS server by the agent and the datapath to applications in
// pods: over UDP and TCP, at nameservers of both families, each pod with its own search
// list. What the mesh does not have is answered by the nameserver.
func TestIstio(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	node := testenv.NewNetNS(t)
	mesh := new(istiod.Server)
	node.Do(func() { mesh.Start(t, "127.0.0.1:0") })
	mesh.Serve(t, meshOf("192.0.2.10"))
	sources := filepath.Join(t.TempDir(), "sources.yaml")
	config := fmt.Sprintf("sources: [{istio: {address: '%s', plaintext: true, namespace: dnsteer, shortNames: true, families: [ipv4, ipv6]}}]", mesh.Address())
	if err := os.WriteFile(sources, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := w.start(t, node, "-sources", sources)
	shop, blog := w.meshPod(t, "shop"), w.meshPod(t, "blog")

	const far = "NOERROR 198.51.100.53"
	asked := []struct{ question, shop, blog string }{
		{"reviews.shop.svc.cluster.local A", "NOERROR 192.0.2.10", ""},
		{"Reviews.shop.svc.cluster.local AAAA", "NOERROR 2001:db8::10", ""},
		{"reviews.shop.svc.cluster.local MX", "NOERROR ", ""},
		// Headless: all endpoints, and each by its name.
		{"db.shop.svc.cluster.local A", "NOERROR 192.0.2.21 192.0.2.22", ""},
		{"db-1.db.shop.svc.cluster.local A", "NOERROR 192.0.2.22", ""},
		// Addresses that istiod has allotted.
		{"pay.example.org A", "NOERROR 240.240.0.1", ""},
		{"pay.example.org AAAA", "NOERROR 2001:2::1", ""},
		{"any.apps.example.org A", "NOERROR 192.0.2.50", ""},
		{"reviews.blog A", "NOERROR 192.0.2.11", ""},
		{"reviews.shop.svc A", "NOERROR 192.0.2.10", ""},
		// What a client makes of names with its own search list, and of "reviews" there.
		{"pay.example.org.shop.svc.cluster.local A", "NOERROR 240.240.0.1 pay.example.org.", far},
		{"pay.example.org.blog.svc.cluster.local A", far, "NOERROR 240.240.0.1 pay.example.org."},
		{"reviews.blog.svc.cluster.local A", "NOERROR 192.0.2.11", ""},
		{"reviews.blog.svc.cluster.local AAAA", "NOERROR ", ""},
		// Nobody's of the mesh.
		{"www.example.com A", far, ""},
		{"reviews.other.svc.cluster.local A", far, ""},
	}
	var all []string
	want := make(map[*testenv.NetNS][]string)
	for _, q := range asked {
		all = append(all, q.question)
		if q.blog == "" {
			q.blog = q.shop
		}
		want[shop], want[blog] = append(want[shop], q.question+": "+q.shop), append(want[blog], q.question+": "+q.blog)
	}
	for pod, want := range want {
		for _, server := range []string{"192.0.2.53", "2001:db8::53"} {
			for _, network := range []string{"udp", "tcp"} {
				if diff := cmp.Diff(want, w.questions(t, pod, network, server, all...)); diff != "" {
					t.Errorf("%s at %s (-want +got):\n%s", network, server, diff)
				}
			}
		}
	}

	// A change of the mesh is every pod's; a mesh that is away changes nothing.
	mesh.Serve(t, meshOf("192.0.2.12"))
	const changed = "reviews.shop.svc.cluster.local A"
	testenv.Eventually(t, patience, func() error {
		if got := w.questions(t, blog, "udp", "192.0.2.53", changed); got[0] != changed+": NOERROR 192.0.2.12" {
			return fmt.Errorf("got %s", got)
		}
		return nil
	})
	mesh.Stop()
	agent.says(t, "names stay as they were")
	if got := w.questions(t, shop, "tcp", "2001:db8::53", changed); got[0] != changed+": NOERROR 192.0.2.12" {
		t.Errorf("without istiod: %s", got)
	}
	if seen := mesh.Seen(); len(seen.Faults) > 0 || len(seen.Nodes) == 0 || !strings.HasSuffix(seen.Nodes[0].GetId(), "~dnsteer.svc.cluster.local") {
		t.Errorf("istiod has seen %+v", seen)
	}
	agent.end(t, unix.SIGTERM)
}

// meshPod is a pod in a namespace of Kubernetes, with a nameserver of its own at two
// addresses.
func (w *world) meshPod(t *testing.T, namespace string) *testenv.NetNS {
	t.Helper()
	pod, server := testenv.NewLink(t)
	addrs := []string{"192.0.2.53", "2001:db8::53"}
	for _, addr := range addrs {
		testenv.Nameserver(t, server, netip.AddrPortFrom(netip.MustParseAddr(addr), 53), testenv.Answers(netip.MustParseAddr("198.51.100.53")))
	}
	at := podAttachment(t, pod, namespace, "", namespace+".svc.cluster.local", "svc.cluster.local", "cluster.local")
	at.Pod, at.DNS.Servers = cnirpc.Pod{Namespace: namespace, Name: "client"}, addrs
	if err := w.client().Add(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	return pod
}

// questions are what an application in a pod hears.
func (w *world) questions(t *testing.T, pod *testenv.NetNS, network, server string, all ...string) []string {
	t.Helper()
	cmd := testenv.Command(t, "questions", append([]string{network, server}, all...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	w.cgroup.Enter(cmd)
	pod.For(t).Start(cmd)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("ask: %v: %s", err, &out)
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}
