// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/names"
	"github.com/dnsteer/dnsteer/resolver"
)

// namesInterval is how soon a changed file is noticed. Looking costs a stat; it sees what
// a watch of the inode misses: the links that the kubelet swaps for a ConfigMap.
const namesInterval = time.Second

// openNames reads the files of names and opens the other sources, and lets the server
// follow them.
func (s *settings) openNames(a *agent) error {
	a.names = resolver.NewNames()
	a.files = a.names.AddLayer("files")
	if err := s.readNames(a); err != nil {
		return err
	}
	if s.sourcesFile != "" {
		config, err := names.ReadConfig(s.sourcesFile)
		if err != nil {
			return err
		}
		if a.sources, err = names.Open(config, a.names, a.log); err != nil {
			return err
		}
	}
	a.names.Follow(a.server)
	return nil
}

// readNames gives the agent the names of files, or keeps the old ones if one is bad.
func (s *settings) readNames(a *agent) error {
	a.read = s.nameFiles() // before: what comes since is read again
	var sources []resolver.Source
	for _, source := range s.sources {
		data, err := os.ReadFile(source.Path)
		if err != nil {
			if !errors.Is(err, os.ErrNotExist) { // its coming back is a change
				a.read = "" // so that it is tried again
			}
			return fmt.Errorf("read names: %w", err)
		}
		source.Data = data
		sources = append(sources, source)
	}
	warnings, err := a.files.SetFiles(sources...)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		a.log.Warn("names", "warning", w)
	}
	return nil
}

// watchNames reads the names again on SIGHUP, and when a file has changed, until ctx ends.
func (s *settings) watchNames(ctx context.Context, a *agent) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	defer signal.Stop(hup)
	tick := time.NewTicker(namesInterval)
	defer tick.Stop()
	for told := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			told = ""
		case <-tick.C:
			if s.nameFiles() == a.read {
				continue
			}
		}
		err := s.readNames(a)
		if err == nil {
			told = ""
		} else if told != err.Error() {
			a.log.Warn("keep the old names", "err", err)
			told = err.Error()
		}
	}
}

// nameFiles tells one state of the files from another. A file that cannot be seen has one
// too: its coming back is a change.
func (s *settings) nameFiles() string {
	var all string
	for _, source := range s.sources {
		info, err := os.Stat(source.Path)
		if err != nil {
			all += "-;"
			continue
		}
		st := info.Sys().(*syscall.Stat_t)
		all += fmt.Sprintf("%d %d %d;", info.Size(), info.ModTime().UnixNano(), st.Ino)
	}
	return all
}
