// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"encoding/json"
	"errors"
	"slices"
)

// PluginName is the type of our entries, and the name of the binary.
const PluginName = "dnsteer-cni"

// Errors that callers may test for.
var (
	// ErrNone: there is no configuration yet. The network's plugin will bring it.
	ErrNone = errors.New("no CNI configuration")
	// ErrInvalid: the first configuration is none that runtimes accept, or half written.
	ErrInvalid = errors.New("no valid CNI configuration")
	// ErrVersion: it is of a version of CNI that dnsteer-cni does not speak. With our
	// entry no pod would start.
	ErrVersion = errors.New("unsupported version of CNI")
	// ErrBusy: others rewrite it faster than it can be edited.
	ErrBusy = errors.New("others keep rewriting it")
)

// Versions are those of CNI in which dnsteer-cni can be chained.
func Versions() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// Entry is what our entry says. The zero value is the usual one.
type Entry struct {
	Socket   string // of the agent
	Timeout  string // of a request, as in "2s"
	Required bool   // pods wait for the agent
}

// text is the entry as it is written.
func (e Entry) text() []byte {
	text, err := json.Marshal(struct {
		Type         string          `json:"type"`
		Capabilities map[string]bool `json:"capabilities"`
		Socket       string          `json:"socket,omitempty"`
		Timeout      string          `json:"timeout,omitempty"`
		Required     bool            `json:"required,omitempty"`
	}{
		Type:         PluginName,
		Capabilities: map[string]bool{"dns": true, "io.kubernetes.cri.pod-annotations": true},
		Socket:       e.Socket,
		Timeout:      e.Timeout,
		Required:     e.Required,
	})
	if err != nil {
		panic(err) // strings and booleans
	}
	return text
}

func supports(version string) bool { return slices.Contains(Versions(), version) }
