// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/cmd/internal/conflist"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

// settings are the command line.
type settings struct {
	socket   string
	state    string
	root     string
	instance string
	opts     loader.Options
	sources  []resolver.Source // without data until they are read

	sourcesFile string
	conflist    conflist.Node
	remove      bool   // everything, and end
	probe       string // ask the agent that runs, and end

	nodeName, kubeconfig, dnsSelector string
	steer                             string
	hostNetwork                       bool
	countLeaks                        bool
	metrics                           string
	queryLog                          int
	randomCase                        bool // resolver.Config.RandomCase
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// What -steer may be.
const (
	steerAll    = "all"
	steerMarked = "marked"
)

// parse reads the command line. Help that is asked for goes to stdout; then the error is
// flag.ErrHelp.
func parse(args []string, stdout, stderr io.Writer) (settings, error) {
	var s settings
	fs := flag.NewFlagSet("dnsteer-agent", flag.ContinueOnError)
	var said bytes.Buffer
	fs.SetOutput(&said)
	fs.StringVar(&s.socket, "socket", cnirpc.DefaultSocket, "unix `socket` for dnsteer-cni")
	fs.StringVar(&s.state, "state", "/run/dnsteer/attachments", "`directory` that remembers pods over a restart; one that a reboot empties")
	fs.StringVar(&s.opts.Cgroup, "cgroup", "", "`directory` of the cgroup (v2) to steer (default: the node's root, or that of its pods where others' programs would run before ours)")
	fs.StringVar(&s.opts.BPFFS, "bpffs", loader.DefaultBPFFS, "BPF `filesystem` for the pins")
	fs.StringVar(&s.root, "host-root", "/", "`directory` where the node's files are; /proc/1/root in a container with hostPID")
	fs.StringVar(&s.instance, "instance", "", "`UID` of the pod that this agent runs in")
	fs.BoolVar(&s.countLeaks, "leaks", false, "count the packets to port 53 that leave pods unsteered; looks at every packet that leaves the node")
	fs.StringVar(&s.metrics, "metrics", "", "`address`, or unix socket, for /metrics, /healthz and /readyz; on loopback, or the socket, /debug/pprof too (default: none)")
	fs.IntVar(&s.queryLog, "query-log", 0, "log one query in `N`; 1 is each (default: none)")
	fs.BoolVar(&s.randomCase, "random-case", false, "spell names in a random case when asking nameservers by UDP, and want it back: harder to forge")
	s.policyFlags(fs)
	s.namesFlags(fs)
	s.pluginFlags(fs)
	fs.BoolVar(&s.remove, "uninstall", false, "take everything of dnsteer off the node, and exit")
	fs.StringVar(&s.probe, "probe", "", "`ready` or alive: ask the agent of this container, and exit with 0 if it is")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		_, failed := stdout.Write(said.Bytes())
		return s, cmp.Or(failed, err)
	} else if err != nil {
		_, _ = stderr.Write(said.Bytes())
		return s, usageError{err}
	}
	if fs.NArg() > 0 {
		return s, usageError{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	return s, s.check()
}

func (s *settings) policyFlags(fs *flag.FlagSet) {
	fs.StringVar(&s.nodeName, "node", "", "`name` of this node: watch its pods at the API server (default: stand alone)")
	fs.StringVar(&s.kubeconfig, "kubeconfig", "", "`file` that says where the API server is (default: the pod's service account)")
	fs.StringVar(&s.steer, "steer", steerAll, "`which` pods to steer: all, or marked: those with annotation or namespace label dnsteer.dev/steer=true; \"false\" always holds")
	fs.StringVar(&s.dnsSelector, "dns-selector", "k8s-app=kube-dns", "`labels` of the cluster's DNS pods, which are never steered")
	fs.BoolVar(&s.hostNetwork, "host-network", false, "steer the node's own network too, and with it all pods that share it")
}

func (s *settings) namesFlags(fs *flag.FlagSet) {
	source := func(format resolver.Format) func(string) error {
		return func(path string) error {
			s.sources = append(s.sources, resolver.Source{Path: path, Format: format})
			return nil
		}
	}
	fs.Func("names", "`file` of names to answer, as YAML; may be repeated; read again when it changes, and on SIGHUP", source(resolver.FormatYAML))
	fs.Func("hosts", "`file` of names to answer, as hosts(5); may be repeated", source(resolver.FormatHosts))
	fs.StringVar(&s.sourcesFile, "sources", "", "`file` of other sources of names, such as Services of clusters or an Istio mesh, as YAML")
}

func (s *settings) pluginFlags(fs *flag.FlagSet) {
	fs.StringVar(&s.conflist.Plugin, "cni-plugin", "", "`binary` of dnsteer-cni, to install and to keep installed (default: none)")
	fs.StringVar(&s.conflist.ConfDir, "cni-conf-dir", conflist.DefaultConfDir, "`directory` of CNI configurations")
	fs.StringVar(&s.conflist.BinDir, "cni-bin-dir", conflist.DefaultBinDir, "`directory` of CNI plugins")
	fs.BoolVar(&s.conflist.Entry.Required, "cni-required", false, "let pods wait for the agent")
}

// check refuses what cannot be meant.
func (s *settings) check() error {
	if err := cnirpc.CheckPath(s.socket); err != nil {
		return usageError{err}
	}
	if s.socket != cnirpc.DefaultSocket {
		s.conflist.Entry.Socket = s.socket
	}
	if s.steer != steerAll && s.steer != steerMarked {
		return usageError{fmt.Errorf("-steer %q: say %s or %s", s.steer, steerAll, steerMarked)}
	}
	if s.queryLog < 0 {
		return usageError{fmt.Errorf("-query-log %d: say one in how many, or 0", s.queryLog)}
	}
	if s.probe != "" && s.probe != probeReady && s.probe != probeAlive {
		return usageError{fmt.Errorf("-probe %q: say %s or %s", s.probe, probeReady, probeAlive)}
	}
	if s.nodeName == "" && s.kubeconfig != "" {
		return usageError{errors.New("-kubeconfig without -node: which node's pods?")}
	}
	return nil
}
