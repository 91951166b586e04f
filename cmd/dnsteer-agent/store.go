// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/cluster"
	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
)

// store remembers attachments over a restart, one file each. It is a hint, not the
// truth: who reads it looks whether the namespace is still the one that it was.
type store struct{ dir string }

// record is one file.
type record struct {
	Attachment cnirpc.Attachment `json:"attachment"`
	Dev        uint64            `json:"dev"`
	Ino        uint64            `json:"ino"`
	// Known is what the API server told of the pod, which may be away the next time.
	Known *cluster.Pod `json:"known,omitempty"`
}

func (r record) namespace() proc.NamespaceID { return proc.NamespaceID{Dev: r.Dev, Ino: r.Ino} }

// path is a name of its own for each attachment: the length says where the container's
// part ends. CNI allows no slash in either; Base sees to it.
func (s store) path(id cnirpc.ID) string {
	return filepath.Join(s.dir, fmt.Sprintf("%d_%s_%s.json", len(id.ContainerID), filepath.Base(id.ContainerID), filepath.Base(id.IfName)))
}

// put remembers, in one step.
func (s store) put(r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("remember attachment: %w", err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("remember attachment: %w", err)
	}
	path := s.path(r.Attachment.ID)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("remember attachment: %w", errors.Join(err, os.Remove(path+".new")))
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("remember attachment: %w", err)
	}
	return nil
}

func (s store) remove(id cnirpc.ID) error {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget attachment: %w", err)
	}
	return nil
}

// all returns what is remembered. What makes no sense is forgotten.
func (s store) all() []record {
	paths, _ := filepath.Glob(filepath.Join(s.dir, "*"))
	var records []record
	for _, path := range paths {
		var r record
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if json.Unmarshal(text, &r) != nil || s.path(r.Attachment.ID) != path {
			_ = os.Remove(path)
			continue
		}
		records = append(records, r)
	}
	return records
}
