// SPDX-License-Identifier: Apache-2.0

// Command dnsteer-cni is the CNI plugin that tells dnsteer-agent of every pod. It is
// chained last, does one request over the agent's unix socket, and hands on the result
// of the plugins before it as it is. It holds no state.
//
// Runtimes execute it; it is of no use to people.
package main

import (
	"os"
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
)

// buildVersion is what the build says it is; a release sets it at link time.
var buildVersion = "" //nolint:gochecknoglobals // set with -ldflags -X

func main() {
	p := plugin{stdout: os.Stdout, stderr: os.Stderr}
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add: p.add, Del: p.del, Check: p.check, GC: p.gc, Status: p.status,
	}, supported(), "dnsteer-cni "+about())
}

// supported are the versions of the specification. Before 0.3.0 there were no chains.
func supported() version.PluginInfo {
	return version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

func about() string {
	if buildVersion != "" {
		return buildVersion
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
