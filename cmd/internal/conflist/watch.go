// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// pollInterval is how soon a change is noticed. Looking costs a directory and some
	// stat calls, and sees what a watch of inodes misses: a directory that is made anew.
	// A pod that starts in between is one that the agent finds by itself.
	pollInterval = time.Second
	// longestPause is between two repairs of a file that somebody else keeps rewriting,
	// as two network plugins were seen to do to each other without end.
	longestPause = time.Minute
	// retryInterval is for what fails for reasons that no file shows, as a full disk.
	retryInterval = time.Minute
)

// Watch installs, and installs again whenever the configurations or the binary change,
// until ctx ends. report gets what Install returned, when that changed something, and
// when it failed for another reason than before.
//
// Against one that undoes each repair the pauses grow up to a minute.
func (n Node) Watch(ctx context.Context, report func(changed []string, err error)) {
	w := watcher{node: n, report: report, pause: pollInterval}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		w.look(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

type watcher struct {
	node   Node
	report func([]string, error)

	seen     string    // fingerprint of what Install last found
	failed   string    // the last error that was reported
	tried    time.Time // when Install was last called
	repaired time.Time // when it last changed something
	pause    time.Duration
}

// look installs if something changed, and if it is time.
func (w *watcher) look(now time.Time) {
	state := w.node.fingerprint()
	overdue := w.failed != "" && now.Sub(w.tried) >= retryInterval
	if state == w.seen && !overdue || now.Sub(w.repaired) < w.pause {
		return
	}
	w.tried = now
	changed, err := w.node.Install()
	w.seen = state // of before: what came since is looked at again
	if len(changed) > 0 {
		w.slow(now)
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if len(changed) > 0 || text != w.failed {
		w.report(changed, err)
	}
	w.failed = text
}

// slow makes the next pause longer if the last repair was undone at once.
func (w *watcher) slow(now time.Time) {
	if now.Sub(w.repaired) <= w.pause+2*pollInterval {
		w.pause = min(2*w.pause, longestPause)
	} else {
		w.pause = pollInterval
	}
	w.repaired = now
}

// fingerprint tells one state of the configurations and the binary from another.
func (n Node) fingerprint() string {
	names, err := n.names()
	if err != nil {
		return err.Error()
	}
	all := identity(filepath.Join(n.BinDir, PluginName)) + identity(n.Plugin)
	for _, name := range names {
		all += name + identity(filepath.Join(n.ConfDir, name))
	}
	return all
}

func identity(path string) string {
	info, err := os.Lstat(path)
	if err != nil {
		return "-;"
	}
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d %d %d %d;", st.Ino, st.Size, info.ModTime().UnixNano(), st.Ctim.Nano())
}
