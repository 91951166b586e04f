// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"strings"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// A node sees its own cgroup as the root, its own name, and what it writes to the
// machine's directories does not reach the machine.
func TestNode(t *testing.T) {
	for _, shape := range []Shape{Hybrid, Unified} {
		t.Run(string(shape), func(t *testing.T) {
			n := newNode(t, newNetwork(t), 1, shape, t.TempDir())
			if got := strings.TrimSpace(n.Run("/bin/hostname")); got != "n1" {
				t.Errorf("host name: %q", got)
			}
			if got := n.Run("/bin/cat", "/proc/self/cgroup"); strings.Contains(got, "dnsteer") || !strings.Contains(got, "0::/\n") {
				t.Errorf("cgroups:\n%s", got)
			}
			n.Run("/bin/sh", "-c", "mkdir "+n.Cgroup2()+"/inner && echo x > /etc/dnsteer-lab-test && cat /sys/class/net/eth0/address")
		})
	}
}
