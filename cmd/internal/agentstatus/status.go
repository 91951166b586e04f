// SPDX-License-Identifier: Apache-2.0

// Package agentstatus is what dnsteer-agent tells of itself and of its pods: as JSON, over
// HTTP on a unix socket, GET /status. The CLI asks, and so may anybody who is root.
package agentstatus

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"

	"github.com/dnsteer/dnsteer/resolver"
)

// Path is what is asked for.
const Path = "/status"

// maxStatus is far beyond a node with a thousand pods.
const maxStatus = 64 << 20

// Socket is where the agent that listens for plugins at a path answers. It is below a
// directory that only root and agents can look into.
func Socket(plugins string) string { return filepath.Join(plugins+".d", "status") }

// Status is what an agent knows.
type Status struct {
	PID      int    `json:"pid"`
	Instance string `json:"instance,omitempty"`
	CgroupID uint64 `json:"cgroup_id"` // whose datapath it uses
	Port     uint16 `json:"port"`
	// Cluster tells whether the API server has told of the node's pods; nil: it is not
	// asked.
	Cluster *bool `json:"cluster_synced,omitempty"`
	Pods    []Pod `json:"pods"`
	// Sources are those of names, beside files.
	Sources []Source `json:"sources,omitempty"`
	// Goroutines is how many there are, for who looks for what was left behind.
	Goroutines int `json:"goroutines"`
}

// Source is a cluster or a mesh whose names are answered.
type Source struct {
	Source string `json:"source"` // of which source of the configuration it is
	Of     string `json:"of"`     // its name, or its address
	Synced bool   `json:"synced"` // all of its names have been told once, and are served
	// Age is for how many seconds it has not been heard, so that its names may be old; 0
	// while it is heard. Error is why.
	Age   float64 `json:"age"`
	Error string  `json:"error,omitempty"`
}

// Pod is one network namespace that is a pod's.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
	NetNS     string `json:"netns"` // as /proc names it
	// Resolver is who answers: "node", "pod", or empty if the pod is not steered.
	Resolver string `json:"resolver,omitempty"`
	// Reason is why policy has it so, Error why it is not so.
	Reason string `json:"reason"`
	Error  string `json:"error,omitempty"`
	// Listeners are the addresses of ours in the pod.
	Listeners   []netip.AddrPort `json:"listeners,omitempty"`
	Nameservers []netip.Addr     `json:"nameservers,omitempty"`
	Search      []string         `json:"search,omitempty"`
	// Answered are its queries since this agent serves it; nil if another resolver does.
	Answered *resolver.Answered `json:"answered,omitempty"`
	// Leaks are the packets to port 53 that left it unsteered; nil if nobody counts.
	Leaks *uint64 `json:"leaks,omitempty"`
	// Attachments are the containers that the runtime told of; none if the pod was found
	// by its processes.
	Attachments []string `json:"attachments,omitempty"`
}

// Get asks the agent at a socket. The error wraps os.ErrNotExist if there is none.
func Get(ctx context.Context, socket string) (Status, error) {
	var s Status
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+Path, nil)
	if err != nil {
		return s, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return s, fmt.Errorf("ask the agent: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("ask the agent: it answers %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatus)).Decode(&s); err != nil {
		return s, fmt.Errorf("read what the agent answers: %w", err)
	}
	return s, nil
}
