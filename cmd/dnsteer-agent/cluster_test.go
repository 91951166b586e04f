// SPDX-License-Identifier: Apache-2.0

//go:build kube

// These need a real API server: make kube, then go test -tags kube.

package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/test/kube"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const podManifest = `
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {k8s-app: %s}}
spec:
  nodeName: n1
  automountServiceAccountToken: false
  containers: [{name: c, image: example.org/none}]
---
`

const labelled = `
apiVersion: v1
kind: Namespace
metadata: {name: left, labels: {dnsteer.dev/steer: "false"}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: left}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: kube-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: default}
---
`

// clusterPod is a pod that the API server knows, with a container that runs.
type clusterPod struct {
	*runningPod
	ns *testenv.NetNS
	at cnirpc.Attachment
}

func (w *world) clusterPod(t *testing.T, c *kube.ControlPlane, namespace, name string) clusterPod {
	t.Helper()
	uid := c.Kubectl("get", "pod", "-n", namespace, name, "-o", "jsonpath={.metadata.uid}")
	ns, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	p := clusterPod{ns: ns, at: podAttachment(t, ns, name, "192.0.2.53")}
	p.at.Pod = cnirpc.Pod{Namespace: namespace, Name: name, UID: uid}
	p.runningPod = w.runPod(t, ns, uid, confA)
	return p
}

// What annotations and labels say takes effect at once, on connected sockets too; the
// cluster's DNS is never steered; an API server that goes takes nothing away.
func TestCluster(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	c := kube.Start(t)
	c.Apply(labelled + fmt.Sprintf(podManifest, "plain", "default", "web") +
		fmt.Sprintf(podManifest, "quiet", "left", "web") + fmt.Sprintf(podManifest, "dns", "kube-system", "kube-dns"))
	plain, quiet, dns := w.clusterPod(t, c, "default", "plain"), w.clusterPod(t, c, "left", "quiet"), w.clusterPod(t, c, "kube-system", "dns")
	agent := w.startHere(t, "-node", "n1", "-kubeconfig", c.Kubeconfig)
	const direct = "198.51.100.53"

	plain.becomes(fromTab) // it ran before
	for _, p := range []clusterPod{plain, quiet, dns} {
		if err := w.client().Add(t.Context(), p.at); err != nil {
			t.Errorf("add %s: %v", p.at.Pod.Name, err)
		}
		if err := w.client().Check(t.Context(), p.at); err != nil {
			t.Errorf("check %s: %v", p.at.Pod.Name, err)
		}
	}
	w.expect(t, quiet.ns, "192.0.2.53", svc, direct)
	w.expect(t, dns.ns, "192.0.2.53", svc, direct)

	c.Kubectl("annotate", "pod", "plain", "dnsteer.dev/steer=false")
	plain.becomes(direct)
	w.expect(t, plain.ns, "192.0.2.53", svc, direct)
	c.Kubectl("annotate", "pod", "plain", "dnsteer.dev/steer-")
	plain.becomes(fromTab)
	c.Kubectl("label", "namespace", "left", "dnsteer.dev/steer-")
	quiet.becomes(fromTab)
	c.Kubectl("label", "namespace", "left", "dnsteer.dev/steer=false")
	quiet.becomes(direct)
	c.Kubectl("annotate", "pod", "-n", "left", "quiet", "dnsteer.dev/steer=true")
	quiet.becomes(fromTab)
	// Not even then.
	c.Kubectl("annotate", "pod", "-n", "kube-system", "dns", "dnsteer.dev/steer=true")
	w.expect(t, dns.ns, "192.0.2.53", svc, direct)

	// A pod that the API server does not know is left alone.
	stranger, server := testenv.NewLink(t)
	nameserver(t, server, "192.0.2.53")
	at := podAttachment(t, stranger, "stranger", "192.0.2.53")
	at.Pod.UID = uidA
	if err := w.client().Add(t.Context(), at); err != nil {
		t.Error(err)
	}
	w.expect(t, stranger, "192.0.2.53", svc, direct)

	c.KillAPIServer()
	agent.end(t, unix.SIGKILL)
	agent = w.startHere(t, "-node", "n1", "-kubeconfig", c.Kubeconfig)
	plain.becomes(fromTab)
	quiet.becomes(fromTab)
	w.expect(t, dns.ns, "192.0.2.53", svc, direct)
	agent.says(t, "the API server has told nothing yet")
	agent.end(t, unix.SIGTERM)
}

// An agent whose DaemonSet was removed takes everything off the node when it is told to
// end; one that is only restarted does not.
func TestRemoved(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	c := kube.Start(t)
	c.Apply(labelled + daemonSet)
	uid := c.Kubectl("-n", "ours", "get", "daemonset", "dnsteer-agent", "-o", "jsonpath={.metadata.uid}")
	c.Apply(fmt.Sprintf(ownPod, uid))
	own := c.Kubectl("-n", "ours", "get", "pod", "dnsteer-agent-x", "-o", "jsonpath={.metadata.uid}")
	args := []string{"-node", "n1", "-kubeconfig", c.Kubeconfig, "-instance", own}
	loaded := func() bool {
		pins, err := filepath.Glob(w.bpffs + "/dnsteer*")
		if err != nil {
			t.Fatal(err)
		}
		return len(pins) > 0
	}
	agent := w.startHere(t, args...)
	agent.says(t, "watch for the removal of our DaemonSet")
	agent.end(t, unix.SIGTERM)
	if !loaded() {
		t.Error("a restart unloads")
	}
	slow := newSlowServer(t, c)
	for _, step := range []struct {
		name       string
		kubeconfig string
		do         func()
	}{
		{"DaemonSet", c.Kubeconfig, func() {
			c.Kubectl("-n", "ours", "delete", "daemonset", "dnsteer-agent", "--cascade=background", "--wait=false")
		}},
		{"gone before", c.Kubeconfig, func() {}},
		{"gone before, and told late", slow.kubeconfig, func() { time.AfterFunc(removalTime+time.Second, slow.tell) }},
		{"namespace", c.Kubeconfig, func() { // without a controller it stays, and what is in it
			c.Apply(daemonSet)
			c.Kubectl("delete", "namespace", "ours", "--wait=false")
		}},
	} {
		agent = w.startHere(t, "-node", "n1", "-kubeconfig", step.kubeconfig, "-instance", own)
		agent.says(t, "watch for the removal of our DaemonSet")
		step.do()
		agent.end(t, unix.SIGTERM)
		if left, err := filepath.Glob(w.dir + "/agent*"); loaded() || err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v, datapath %v", step.name, left, err, loaded())
		}
	}
}

// slowServer is the API server, but of DaemonSets it says nothing before tell is called.
type slowServer struct {
	kubeconfig string
	tell       func()
}

func newSlowServer(t *testing.T, c *kube.ControlPlane) slowServer {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(c.URL)
	if err != nil {
		t.Fatal(err)
	}
	told, to := make(chan struct{}), httputil.NewSingleHostReverseProxy(target)
	to.Transport, to.FlushInterval, to.ErrorLog = transport, -1, log.New(io.Discard, "", 0) // the agent goes amid watches
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { _ = recover() }() // so the proxy gives up a watch
		if strings.Contains(r.URL.Path, "daemonsets") {
			select {
			case <-told:
			case <-r.Context().Done():
				return
			}
		}
		to.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		utilnet.CloseIdleConnectionsFor(transport)
	})
	text, err := os.ReadFile(c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	writeFile(t, kubeconfig, strings.ReplaceAll(string(text), c.URL, s.URL))
	return slowServer{kubeconfig, sync.OnceFunc(func() { close(told) })}
}

const daemonSet = `
apiVersion: v1
kind: Namespace
metadata: {name: ours}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: dnsteer-agent, namespace: ours}
spec:
  selector: {matchLabels: {app: dnsteer-agent}}
  template:
    metadata: {labels: {app: dnsteer-agent}}
    spec: {containers: [{name: c, image: example.org/none}]}
`

const ownPod = `
apiVersion: v1
kind: Pod
metadata:
  name: dnsteer-agent-x
  namespace: ours
  ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: dnsteer-agent, uid: %s, controller: true}]
spec:
  nodeName: n1
  automountServiceAccountToken: false
  containers: [{name: c, image: example.org/none}]
`

// startHere runs the agent in the test's own namespace, where the API server is.
func (w *world) startHere(t *testing.T, more ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(w.binary, append(w.args(), more...)...)}
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		if t.Failed() {
			t.Log(strings.TrimSpace(p.log.String()))
		}
	})
	p.says(t, "msg=serving")
	return p
}
