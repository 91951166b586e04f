// SPDX-License-Identifier: Apache-2.0

// Command coredns is the DNS server that most clusters run, with the plugins that
// their usual configuration names, for tests alone. Build it with make kube.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/multisocket"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() {
	// The order in which a query meets them, as in a CoreDNS of its own project.
	dnsserver.Directives = []string{"multisocket", "health", "ready", "errors", "cache", "kubernetes", "forward"}
	coremain.Run()
}
