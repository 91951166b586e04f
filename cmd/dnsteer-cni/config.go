// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
)

const (
	// shortestTimeout is what a busy node needs for a request that succeeds.
	shortestTimeout = 10 * time.Millisecond
	// longestTimeout keeps well below the two minutes that a kubelet gives its runtime
	// for a whole pod.
	longestTimeout = 30 * time.Second
)

// config is what comes on stdin: our entry of the conflist, and what the runtime adds.
type config struct {
	CNIVersion   string          `json:"cniVersion"`
	Name         string          `json:"name"`
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
	Args         json.RawMessage `json:"args"`
	PrevResult   json.RawMessage `json:"prevResult"`
	// Runtime has what Capabilities asked for; it is the runtime's, and read with grace.
	Runtime struct {
		DNS         json.RawMessage `json:"dns"`
		Annotations json.RawMessage `json:"io.kubernetes.cri.pod-annotations"`
	} `json:"runtimeConfig"`
	// Valid is GC's. Libraries send it under a second name as well, by a slip of the
	// specification's.
	Valid    []attachmentID `json:"cni.dev/valid-attachments"`
	OldValid []attachmentID `json:"cni.dev/attachments"`

	// Socket is the agent's, cnirpc.DefaultSocket if empty.
	Socket string `json:"socket"`
	// Timeout bounds the request, cnirpc.DefaultTimeout if empty. As in "500ms".
	Timeout string `json:"timeout"`
	// Required lets a pod wait for the agent. Without, it starts unsteered.
	Required bool `json:"required"`

	timeout time.Duration
}

// attachmentID is how the specification spells cnirpc.ID.
type attachmentID struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// keys are all that config knows.
func keys() []string {
	return []string{
		"cniVersion", "name", "type", "capabilities", "args", "prevResult", "runtimeConfig",
		"cni.dev/valid-attachments", "cni.dev/attachments", "socket", "timeout", "required",
	}
}

// readConfig reads a config. After an error, it holds what could be read, and defaults.
func readConfig(data []byte) (config, error) {
	c := config{timeout: cnirpc.DefaultTimeout}
	// What is of the wrong type is left out, the rest is read.
	if err := json.Unmarshal(data, &c); err != nil {
		return c, types.NewError(types.ErrDecodingFailure, "read configuration", err.Error())
	}
	return c, nil
}

// parseConfig reads and validates a config. DEL and GC, which must not fail for a key
// that a later version knew, go on after its error.
func parseConfig(data []byte) (config, error) {
	c, err := readConfig(data)
	if err == nil {
		err = errors.Join(checkKeys(data), c.validate())
	}
	return c, err
}

// checkKeys refuses keys that nobody would act on: a slip of the pen in "required"
// must not make it optional. The specification wants key and value in the message.
func checkKeys(data []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return types.NewError(types.ErrDecodingFailure, "read configuration", err.Error())
	}
	var unknown []string
	for key, value := range all {
		if !slices.Contains(keys(), key) {
			unknown = append(unknown, fmt.Sprintf("%q: %s", key, value))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return types.NewError(types.ErrUnsupportedField, "unknown keys in the entry of dnsteer-cni: "+strings.Join(unknown, ", "),
		"its own are socket, timeout and required")
}

// validate checks our own keys. What is wrong gets its default.
func (c *config) validate() error {
	if c.Socket != "" {
		if err := cnirpc.CheckPath(c.Socket); err != nil {
			c.Socket = ""
			return types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
		}
	}
	if c.Timeout == "" {
		return nil
	}
	d, err := time.ParseDuration(c.Timeout)
	if err != nil || d < shortestTimeout || d > longestTimeout {
		return types.NewError(types.ErrInvalidNetworkConfig,
			fmt.Sprintf("timeout %q is not a duration from %v to %v", c.Timeout, shortestTimeout, longestTimeout), "")
	}
	c.timeout = d
	return nil
}

func (c *config) client() cnirpc.Client {
	return cnirpc.Client{Socket: c.Socket, Timeout: c.timeout}
}

// result is what the plugins before us made, to the byte, unless the runtime speaks two
// versions at once. Without it we are not chained.
func (c *config) result() ([]byte, error) {
	if len(c.PrevResult) == 0 || string(c.PrevResult) == "null" {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "dnsteer-cni runs after other plugins, not alone",
			`make its entry the last of "plugins" in a .conflist; the agent does that by itself`)
	}
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	err := json.Unmarshal(c.PrevResult, &head)
	made := cmp.Or(head.CNIVersion, c.CNIVersion) // runtimes read it that way, too
	var result types.Result
	if err == nil {
		result, err = create.Create(made, c.PrevResult)
	}
	if err == nil && made != c.CNIVersion {
		c.PrevResult, err = convert(result, c.CNIVersion)
	}
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "read prevResult", err.Error())
	}
	return c.PrevResult, nil
}

func convert(result types.Result, version string) ([]byte, error) {
	converted, err := result.GetAsVersion(version)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = converted.PrintTo(&out)
	return out.Bytes(), err
}

// valid are GC's attachments; nil if the runtime did not say, which does not mean none:
// cnitool does not.
func (c *config) valid() []cnirpc.ID {
	list := c.Valid
	if list == nil {
		list = c.OldValid
	}
	if list == nil {
		return nil
	}
	ids := make([]cnirpc.ID, 0, len(list))
	for _, a := range list {
		ids = append(ids, cnirpc.ID(a))
	}
	return ids
}
