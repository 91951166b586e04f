// SPDX-License-Identifier: Apache-2.0

package cnirpc

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Version is that of the protocol. A field that may be left out does not change it:
// both sides ignore the fields that they do not know.
const Version = 1

// DefaultSocket is where the agent listens.
const DefaultSocket = "/run/dnsteer/agent.sock"

// maxMessage bounds a message. The longest is GC's: a node of 2,000 pods needs 250 kB.
const maxMessage = 1 << 20

// Agent is what the plugin asks for. Each method maps to the CNI command of its name.
// All must be safe for concurrent use, and idempotent: runtimes repeat what they ask. The
// context ends when the plugin does not wait any more.
//
// The errors that mean something to the plugin are the sentinels of this package.
type Agent interface {
	// Add enrols the attachment's namespace, and returns when its queries are steered,
	// or when policy leaves it alone.
	Add(ctx context.Context, a Attachment) error
	// Del withdraws the attachment. The namespace may be gone (nil), and so may the
	// attachment: that is no error.
	Del(ctx context.Context, a Attachment) error
	// Check returns nil if the attachment is as Add made it, ErrUnknown if it is none.
	Check(ctx context.Context, a Attachment) error
	// GC withdraws the attachments of a network that are not among the valid ones.
	GC(ctx context.Context, network string, valid []ID) error
	// Status returns nil if Add would succeed, ErrUnavailable if not, and ErrLimited if
	// not and pods that run already may be cut off as well.
	Status(ctx context.Context) error
}

// ID names an attachment on its network, as CNI does.
type ID struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// Attachment is what the plugin knows of one CNI ADD.
type Attachment struct {
	ID
	Network string `json:"network"`
	Pod     Pod    `json:"pod,omitzero"`
	// DNS is the pod's resolv.conf, nil where the runtime does not tell.
	DNS *DNS `json:"dns,omitempty"`
	// Annotations are the pod's own that begin with "dnsteer.dev/", nil where the
	// runtime does not tell.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Path is what the runtime calls the namespace, for logs; see Namespace.
	Path string `json:"path,omitempty"`
	// Namespace is the network namespace. It is the caller's, who closes it after the
	// call: who wants to keep it makes a duplicate. Only Del does without.
	Namespace *os.File `json:"-"`
}

// Pod is whose attachment it is; empty where the runtime is not Kubernetes'.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// DNS is the content of a resolv.conf.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// verb is the command of a request.
type verb string

const (
	verbAdd    verb = "add"
	verbDel    verb = "del"
	verbCheck  verb = "check"
	verbGC     verb = "gc"
	verbStatus verb = "status"
)

type request struct {
	Version int  `json:"version"`
	Do      verb `json:"do"`
	// TimeoutMS is how long the client will wait, so that nobody works for nobody.
	TimeoutMS  int64      `json:"timeoutMs"`
	Attachment Attachment `json:"attachment,omitzero"` // verbAdd, verbDel, verbCheck
	Network    string     `json:"network,omitempty"`   // verbGC
	// Valid is verbGC's. Null is not the empty list: it would withdraw everything.
	Valid []ID `json:"valid"`
}

// response is without Error if all went well.
type response struct {
	Version int    `json:"version"`
	Code    string `json:"code,omitempty"` // of a sentinel
	Error   string `json:"error,omitempty"`
}

// validate refuses what no client of ours sends.
func (r request) validate() error {
	if r.Version != Version {
		return fmt.Errorf("protocol version %d: this agent speaks %d", r.Version, Version)
	}
	switch r.Do {
	case verbAdd, verbCheck, verbDel:
		if r.Attachment.ContainerID == "" || r.Attachment.IfName == "" {
			return errors.New("attachment without container or interface")
		}
		if r.Attachment.Namespace == nil && r.Do != verbDel {
			return errors.New("attachment without network namespace")
		}
	case verbGC:
		if r.Network == "" || r.Valid == nil {
			return errors.New("garbage collection without network or valid attachments")
		}
	case verbStatus:
	default:
		return fmt.Errorf("unknown request %q", r.Do)
	}
	return nil
}
