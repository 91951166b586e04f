// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/dnsteer/dnsteer/resolver"
)

// pollInterval is how soon a changed file is noticed. Looking costs a stat per file;
// it sees what a watch of the inode misses: the symbolic links that Kubernetes swaps,
// editors that rename, and network filesystems.
const pollInterval = time.Second

// nameFile is a file of names and how to read it.
type nameFile struct {
	path   string
	format resolver.Format
}

// nameFiles are the files of the command line, in their order.
type nameFiles []nameFile

// read reads all files. The privileged side reads, since files can be anybody's; the
// worker parses.
func (n nameFiles) read() ([]resolver.Source, error) {
	var sources []resolver.Source
	for _, f := range n {
		data, err := os.ReadFile(f.path)
		if err != nil {
			return nil, fmt.Errorf("read names: %w", err)
		}
		sources = append(sources, resolver.Source{Path: f.path, Data: data, Format: f.format})
	}
	return sources, nil
}

// watch calls changed when a file, or one of others, has changed, until ctx ends.
func (n nameFiles) watch(ctx context.Context, others []string, changed func()) {
	paths := others
	for _, f := range n {
		paths = append(paths, f.path)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	last := fingerprints(paths)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := fingerprints(paths); now != last {
			last = now
			changed()
		}
	}
}

// fingerprints tells one state of the files from another. A file that cannot be seen
// has one too: its coming back is a change.
func fingerprints(paths []string) string {
	var all string
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			all += "-;"
			continue
		}
		all += fmt.Sprintf("%d %d %v;", st.Size(), st.ModTime().UnixNano(), inode(st))
	}
	return all
}

func inode(st fs.FileInfo) uint64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}
