// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dnsteer/dnsteer/test/kube"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	confDir = "/etc/cni/net.d"
	binDir  = "/opt/cni/bin"
	runDir  = "/run/kube" // what the node's own daemons are configured with
	socket  = "/run/containerd/containerd.sock"
)

// plugins are the reference plugins of CNI that a node has.
var plugins = []string{"host-local", "loopback", "portmap", "ptp", "bridge"}

// conflist is a chain as people have it; chained plugins are added to its end.
// The network has no way out, so nothing is masqueraded.
const conflist = `{
  "cniVersion": %q,
  "name": "pods",
  "plugins": [
    {
      "type": "ptp",
      "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}
  ]
}
`

// Runtime is which containerd a node has.
type Runtime struct {
	daemon, client func(testing.TB) string
	config         string // as containerdConfig
	cniVersion     string // the newest that it takes from a plugin
}

// Containerd is that of test/kube/containerd, and OldContainerd is Debian's, 1.6: it knows
// no results of CNI 1.1.0, and no STATUS.
func Containerd() Runtime {
	return Runtime{
		daemon:     func(tb testing.TB) string { return kube.Binary(tb, "containerd") },
		client:     func(tb testing.TB) string { return kube.Binary(tb, "ctr") },
		config:     containerdConfig,
		cniVersion: "1.1.0",
	}
}

// OldContainerd is explained at Containerd.
func OldContainerd() Runtime {
	return Runtime{
		daemon:     func(tb testing.TB) string { return testenv.Binary(tb, "containerd", "containerd") },
		client:     func(tb testing.TB) string { return testenv.Binary(tb, "ctr", "containerd") },
		config:     oldContainerdConfig,
		cniVersion: "1.0.0",
	}
}

// containerdConfig: CAP_SYS_RESOURCE may be missing, without which no process may
// lower its oom_score_adj.
const containerdConfig = `version = 3
[grpc]
  address = %q
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = %q
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = %q
      SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [%q]
    conf_dir = %q
`

// oldContainerdConfig says the same to 1.6.
const oldContainerdConfig = `version = 2
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = %q
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
`

// startRuntime runs containerd on the node and returns when it answers.
func (n *Node) startRuntime() {
	n.tb.Helper()
	n.installPlugins()
	n.Write(filepath.Join(confDir, "10-pods.conflist"), fmt.Sprintf(conflist, n.runtime.cniVersion, n.Pods))
	runc := testenv.Binary(n.tb, "runc", "runc")
	env := []string{"DNSTEER_TEST_RUNC=" + runc}
	if n.shape == Unified {
		runc = build(n.tb, "unlimited")
	}
	config := filepath.Join(runDir, "containerd.toml")
	n.Write(config, fmt.Sprintf(n.runtime.config, socket, pauseImage, runc, binDir, confDir))

	daemon := n.runtime.daemon(n.tb)
	cmd := n.Command(daemon, "-c", config)
	// containerd looks for its shim beside itself and in PATH.
	cmd.Env = append(append(cmd.Env, env...), "PATH="+filepath.Dir(daemon)+":"+os.Getenv("PATH"))
	containerd := kube.Run(n.tb, "containerd", n.logs, cmd)
	n.daemons = append(n.daemons, containerd)
	testenv.Eventually(n.tb, startTimeout, func() error {
		if err := containerd.Alive(); err != nil {
			n.tb.Fatalf("start containerd on %s: %v:\n%s", n.Name, err, containerd.Tail())
		}
		_, err := bounded(n.ctr("version"))
		return err
	})
}

func (n *Node) installPlugins() {
	n.tb.Helper()
	for _, plugin := range plugins {
		n.copyFile(kube.Binary(n.tb, plugin), filepath.Join(binDir, plugin))
	}
}

// Load puts an image's archive into the node's containerd, where kubelet finds it.
func (n *Node) Load(archive string) {
	n.tb.Helper()
	if out, err := bounded(n.ctr("images", "import", archive)); err != nil {
		n.tb.Fatalf("load image into %s: %v\n%s", n.Name, err, out)
	}
}

// ctr is containerd's own client, looking at what kubelet sees.
func (n *Node) ctr(args ...string) *exec.Cmd {
	n.tb.Helper()
	return n.Command(append([]string{n.runtime.client(n.tb), "--address", socket, "--namespace", "k8s.io"}, args...)...)
}

func (n *Node) copyFile(from, to string) {
	n.tb.Helper()
	to = n.Path(to)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		n.tb.Fatalf("copy file to %s: %v", n.Name, err)
	}
	in, err := os.Open(from)
	if err != nil {
		n.tb.Fatalf("copy file to %s: %v", n.Name, err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		n.tb.Fatalf("copy file to %s: %v", n.Name, err)
	}
	_, err = io.Copy(out, in)
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err != nil {
		n.tb.Fatalf("copy file to %s: %v", n.Name, err)
	}
}
