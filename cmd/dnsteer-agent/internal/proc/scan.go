// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Sighting is a pod's network namespace, and the process through which it was seen.
type Sighting struct {
	Namespace NamespaceID
	PodUID    string
	PID       int
	Path      string // opens the namespace as long as the process lives
}

// Scanner looks for pods. It remembers the processes that it has seen, so that a scan of
// a node where nothing happens costs one stat for each process; one that has a network of
// its own and is of no pod is looked at again. It is for one goroutine.
type Scanner struct {
	proc   string
	cgroup string // only processes in it, or below it; as /proc/PID/cgroup writes it
	own    NamespaceID
	known  map[int]process
}

// process is what was found out of one.
type process struct {
	namespace NamespaceID
	podUID    string // empty: of no pod
	start     uint64
}

// NewScanner looks into a proc filesystem, and there at what is below a cgroup, "/" for
// all. Processes in the namespace own are of no pod: they share the node's.
func NewScanner(proc, cgroup string, own NamespaceID) *Scanner {
	return &Scanner{proc: proc, cgroup: cgroup, own: own, known: make(map[int]process)}
}

// Scan returns one sighting for each pod that has processes. Where those are in several
// namespaces, the pod's is that of the oldest: whatever a container makes for itself
// comes later.
func (s *Scanner) Scan() (map[string]Sighting, error) {
	entries, err := os.ReadDir(s.proc)
	if err != nil {
		return nil, fmt.Errorf("look for pods: %w", err)
	}
	alive := make(map[int]process, len(s.known))
	pods := make(map[string]Sighting)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		path, id, ok := namespaceOf(s.proc, pid)
		if !ok {
			continue
		}
		p, ok := s.known[pid]
		// Of no pod is what could not be read, or what its runtime has not moved yet.
		if !ok || p.namespace != id || p.podUID == "" && id != s.own {
			p = s.look(pid, id)
		}
		alive[pid] = p
		if p.podUID == "" {
			continue
		}
		if first, ok := pods[p.podUID]; !ok || p.start < alive[first.PID].start {
			pods[p.podUID] = Sighting{Namespace: id, PodUID: p.podUID, PID: pid, Path: path}
		}
	}
	s.known = alive
	return pods, nil
}

// look finds out about a process that is new, or has another namespace than before.
func (s *Scanner) look(pid int, id NamespaceID) process {
	p := process{namespace: id}
	if id == s.own {
		return p
	}
	data, err := os.ReadFile(filepath.Join(s.proc, strconv.Itoa(pid), "cgroup"))
	if err != nil || !below(unified(string(data)), s.cgroup) {
		return p
	}
	uid := podUID(string(data))
	if uid == "" {
		return p
	}
	if p.start = startTime(s.proc, pid); p.start != 0 { // or it has ended, and would be the oldest
		p.podUID = uid
	}
	return p
}
