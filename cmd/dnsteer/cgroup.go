// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dnsteer/dnsteer/loader"
)

const cgroupPrefix = "dnsteer-"

// commandCgroup is the cgroup of one command, below the cgroup that dnsteer itself is
// in: limits and accounting stay those of whoever started it.
type commandCgroup struct {
	path string
	dir  *os.File
}

// makeCgroup makes the cgroup, and removes those of dead ones on the way.
func makeCgroup() (*commandCgroup, error) {
	parent, err := loader.OwnCgroup()
	if err != nil {
		return nil, err
	}
	sweepCgroups(parent)
	path := filepath.Join(parent, cgroupPrefix+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		_ = os.Remove(path)
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return &commandCgroup{path, dir}, nil
}

// sweepAge spares a cgroup whose command has not started yet, should its PID be that of
// another PID namespace and so look dead.
const sweepAge = time.Minute

// sweepCgroups removes what dnsteer left that was killed. A cgroup in which anything
// runs refuses to go.
func sweepCgroups(parent string) {
	paths, _ := filepath.Glob(filepath.Join(parent, cgroupPrefix+"*"))
	for _, path := range paths {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(path), cgroupPrefix))
		st, statErr := os.Stat(path)
		if err != nil || statErr != nil || time.Since(st.ModTime()) < sweepAge {
			continue
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(path)
		}
	}
}

// remove moves what CMD left running to the cgroup above, where it would have been
// without dnsteer, and removes the cgroup.
func (c *commandCgroup) remove() error {
	defer c.dir.Close()
	var err error
	for range 100 { // what forks while it is moved may need another round
		if err = c.evict(); err != nil {
			break
		}
		if err = os.Remove(c.path); err == nil {
			return nil
		}
	}
	return fmt.Errorf("remove cgroup: %w", err)
}

// evict moves every process of the cgroup and of those below it, and removes those.
func (c *commandCgroup) evict() error {
	parent := filepath.Join(filepath.Dir(c.path), "cgroup.procs")
	var dirs []string
	err := filepath.WalkDir(c.path, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil //nolint:nilerr // what has gone is done
	})
	if err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		data, err := os.ReadFile(filepath.Join(dirs[i], "cgroup.procs"))
		if err != nil {
			continue // gone
		}
		for _, pid := range strings.Fields(string(data)) {
			_ = os.WriteFile(parent, []byte(pid), 0) // it may have ended
		}
		if dirs[i] != c.path {
			_ = os.Remove(dirs[i])
		}
	}
	return nil
}
