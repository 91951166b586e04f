// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// ServiceCIDR is where Services have their addresses.
	ServiceCIDR = "10.96.0.0/16"
	// readyTimeout bounds the start on a machine that has much else to do; alone
	// it takes some seconds.
	readyTimeout = 2 * time.Minute
	// probeTimeout is for one question whether the API server is ready.
	probeTimeout = 2 * time.Second
	// kubectlTimeout bounds one kubectl, beyond the --timeout of any that waits.
	kubectlTimeout = 5 * time.Minute
)

// Site is where the processes of a control plane run.
type Site struct {
	// Addr is the API server's address, which has to reach it from where the test
	// is, and Port its port.
	Addr net.IP
	Port int
	// Place makes a command run there; nil leaves it where the test is.
	Place func(cmd *exec.Cmd) *exec.Cmd
	// Logs is a directory; empty means one that is gone with the test.
	Logs string
}

// ControlPlane is an etcd and a kube-apiserver.
type ControlPlane struct {
	// Kubeconfig is the path of an administrator's.
	Kubeconfig string
	// URL is the API server's.
	URL string
	PKI PKI

	tb     testing.TB
	site   Site
	dir    string
	tokens map[string]string
	probe  http.Client

	etcd, apiserver *Process
}

// Start runs etcd and a kube-apiserver on loopback until the test ends. It
// returns when the API server is ready.
func Start(tb testing.TB) *ControlPlane {
	tb.Helper()
	return StartAt(tb, Site{Addr: net.IPv4(127, 0, 0, 1), Port: freePort(tb)})
}

// StartAt does so at a site.
func StartAt(tb testing.TB, site Site) *ControlPlane {
	tb.Helper()
	if site.Place == nil {
		site.Place = func(cmd *exec.Cmd) *exec.Cmd { return cmd }
	}
	dir := tb.TempDir()
	c := &ControlPlane{tb: tb, site: site, dir: dir, PKI: NewPKI(tb, dir, site.Addr)}
	if site.Logs == "" {
		c.site.Logs = dir
		tb.Cleanup(c.showLogs)
	}
	c.tokens = c.PKI.tokens()
	c.URL = "https://" + net.JoinHostPort(site.Addr.String(), fmt.Sprint(site.Port))
	c.Kubeconfig = c.KubeconfigOf("admin")
	c.probe = http.Client{Timeout: probeTimeout, Transport: &http.Transport{TLSClientConfig: c.tls(), DisableKeepAlives: true}}

	c.etcd = Run(tb, "etcd", c.site.Logs, site.Place(Command(tb, "etcd", c.etcdArgs()...)))
	c.StartAPIServer()
	return c
}

// showLogs is for logs that are about to go.
func (c *ControlPlane) showLogs() {
	for _, p := range []*Process{c.etcd, c.apiserver} {
		if c.tb.Failed() && p != nil {
			c.tb.Logf("the end of %s.log:\n%s", p.Name, p.Tail())
		}
	}
}

// For returns the same control plane, reporting to tb, as a subtest needs it.
// Processes end with the test that Start was given.
func (c *ControlPlane) For(tb testing.TB) *ControlPlane {
	other := *c
	other.tb = tb
	return &other
}

// StartAPIServer starts the API server again after StopAPIServer, at the same
// address and with the same data, and returns when it is ready.
func (c *ControlPlane) StartAPIServer() {
	c.tb.Helper()
	c.apiserver = Run(c.tb, "kube-apiserver", c.site.Logs, c.site.Place(Command(c.tb, "kube-apiserver", c.apiserverArgs()...)))
	testenv.Eventually(c.tb, readyTimeout, func() error {
		for _, p := range []*Process{c.etcd, c.apiserver} {
			if err := p.Alive(); err != nil {
				c.tb.Fatalf("%v: the end of its log:\n%s", err, p.Tail())
			}
		}
		return c.Ready()
	})
}

// StopAPIServer ends the API server in good order; etcd keeps the data.
func (c *ControlPlane) StopAPIServer() { c.tb.Helper(); c.apiserver.Stop(c.tb) }

// KillAPIServer ends it as a crash would.
func (c *ControlPlane) KillAPIServer() { c.apiserver.Kill() }

// Ready returns an error unless the API server calls itself ready.
func (c *ControlPlane) Ready() error {
	request, err := http.NewRequest(http.MethodGet, c.URL+"/readyz", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+c.tokens["admin"])
	response, err := c.probe.Do(request)
	if err != nil {
		return fmt.Errorf("ask whether the API server is ready: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask whether the API server is ready: %s", response.Status)
	}
	return nil
}

// Kubectl runs kubectl as an administrator and returns what it printed; the test
// fails if kubectl does.
func (c *ControlPlane) Kubectl(args ...string) string {
	c.tb.Helper()
	out, err := c.kubectl("", args...)
	if err != nil {
		c.tb.Fatal(err)
	}
	return out
}

// TryKubectl is Kubectl for what may fail; the error has what kubectl complained of.
func (c *ControlPlane) TryKubectl(args ...string) (string, error) {
	c.tb.Helper()
	return c.kubectl("", args...)
}

// Apply is kubectl apply of manifests in YAML.
func (c *ControlPlane) Apply(manifests string) {
	c.tb.Helper()
	if _, err := c.kubectl(manifests, "apply", "-f", "-"); err != nil {
		c.tb.Fatal(err)
	}
}

func (c *ControlPlane) kubectl(stdin string, args ...string) (string, error) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeoutCause(c.tb.Context(), kubectlTimeout, fmt.Errorf("it ran for %v", kubectlTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(c.tb, "hyperkube"), append([]string{"kubectl", "--kubeconfig", c.Kubeconfig}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("run kubectl %q: %w: %s", args, err, &stderr)
	}
	return stdout.String(), nil
}

// KubeconfigOf writes the kubeconfig of one of the cluster's users, "admin",
// "kube-scheduler" or a node, and returns its path.
func (c *ControlPlane) KubeconfigOf(name string) string {
	c.tb.Helper()
	token, ok := c.tokens[name]
	if !ok {
		c.tb.Fatalf("write kubeconfig: no user %q", name)
	}
	return c.WriteKubeconfig(name, token)
}

// WriteKubeconfig writes a kubeconfig for whoever has token, such as a
// ServiceAccount, and returns its path.
func (c *ControlPlane) WriteKubeconfig(name, token string) string {
	c.tb.Helper()
	path := filepath.Join(c.dir, name+".kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: %q, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: %[3]q}}]
current-context: test
`, c.URL, c.PKI.File("ca.crt"), name, token)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.tb.Fatalf("write kubeconfig: %v", err)
	}
	return path
}

func (c *ControlPlane) tls() *tls.Config {
	c.tb.Helper()
	text, err := os.ReadFile(c.PKI.File("ca.crt"))
	if err != nil {
		c.tb.Fatalf("read certificate: %v", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		c.tb.Fatal("read certificate: it is none")
	}
	return &tls.Config{RootCAs: pool}
}

func (c *ControlPlane) etcdArgs() []string {
	return []string{
		"--data-dir", filepath.Join(c.dir, "etcd"),
		"--listen-client-urls", c.etcdURL("client"), "--advertise-client-urls", c.etcdURL("client"),
		"--listen-peer-urls", c.etcdURL("peer"), "--initial-advertise-peer-urls", c.etcdURL("peer"),
		"--initial-cluster", "default=" + c.etcdURL("peer"),
		"--unsafe-no-fsync", // a test's data need not outlive the machine
	}
}

// etcdURL is a unix socket, which no other test can take.
func (c *ControlPlane) etcdURL(side string) string {
	return "unix://" + filepath.Join(c.dir, side+".sock")
}

func (c *ControlPlane) apiserverArgs() []string {
	addr := c.site.Addr.String()
	args := []string{
		"--etcd-servers=" + c.etcdURL("client"),
		"--bind-address=" + addr, "--advertise-address=" + addr, fmt.Sprintf("--secure-port=%d", c.site.Port),
		"--service-cluster-ip-range=" + ServiceCIDR,
		"--tls-cert-file=" + c.PKI.File("apiserver.crt"), "--tls-private-key-file=" + c.PKI.File("apiserver.key"),
		"--client-ca-file=" + c.PKI.File("ca.crt"), "--token-auth-file=" + c.PKI.File("tokens.csv"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file=" + c.PKI.File("sa.key"), "--service-account-key-file=" + c.PKI.File("sa.pub"),
		"--kubelet-preferred-address-types=InternalIP", // nodes' names are in nobody's DNS
	}
	if c.site.Addr.IsLoopback() {
		// There are no pods, and kubernetes' EndpointSlice may not hold a loopback address.
		args = append(args, "--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount")
	}
	return args
}

// freePort is a TCP port of loopback that was free a moment ago.
func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("find a free port: %v", err)
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if err := errors.Join(l.Close()); err != nil || !ok {
		tb.Fatalf("find a free port: %v", err)
	}
	return addr.Port
}
