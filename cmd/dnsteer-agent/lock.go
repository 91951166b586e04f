// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/handover"
)

// lockInterval is how soon a waiting agent notices that the one before has ended.
const lockInterval = 50 * time.Millisecond

// askInterval is how soon one that was not given is asked again.
const askInterval = time.Second

// runDir is beside the socket of plugins. Who can look into it can be the next agent.
func (s *settings) runDir() string { return s.socket + ".d" }

// lockPath is the file whose lock the agent that runs has, however it ends.
func (s *settings) lockPath() string { return filepath.Join(s.runDir(), "lock") }

// doorPath is where the next agent asks the one that runs.
func (s *settings) doorPath() string { return filepath.Join(s.runDir(), "next") }

// relievedPath says that this instance has handed over. It is there for the container
// that the kubelet starts again in the pod of the old version: that must wait, and not
// take back what its successor has.
func (s *settings) relievedPath() string {
	return filepath.Join(s.runDir(), "relieved-"+filepath.Base(s.instance))
}

func (s *settings) isRelieved() bool {
	_, err := os.Stat(s.relievedPath())
	return s.instance != "" && err == nil
}

// setRelieved remembers it, or forgets it.
func (s *settings) setRelieved(relieved bool) error {
	if s.instance == "" {
		return nil
	}
	if !relieved {
		if err := os.Remove(s.relievedPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	return os.WriteFile(s.relievedPath(), nil, 0o600)
}

// claim is the right to run: the lock, or an agent's offer to hand it over.
type claim struct {
	lock  *os.File
	offer *offer
}

// acquire waits until we may run, or ctx ends. If ask is true, an agent that runs is asked
// to hand over, some time after it was asked last.
func (s *settings) acquire(ctx context.Context, ask bool, asked *time.Time, log *slog.Logger) (claim, error) {
	tick := time.NewTicker(lockInterval)
	defer tick.Stop()
	for told := false; ; {
		lock, err := tryLock(s.lockPath())
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return claim{lock: lock}, err
		}
		if ask && time.Since(*asked) > askInterval {
			*asked = time.Now()
			o, err := askFor(ctx, s.doorPath())
			if err == nil {
				return claim{offer: o}, nil
			}
			if !told && ctx.Err() == nil {
				log.Info("wait for the agent that runs", "err", err)
				told = true
			}
		}
		select {
		case <-ctx.Done():
			return claim{}, fmt.Errorf("wait for the agent that runs: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// tryLock returns the locked file. The error wraps unix.EWOULDBLOCK if another agent has it.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock out other agents: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock out other agents: %w", os.NewSyscallError("flock", err))
	}
	if !isSame(f, path) { // it was uninstalled meanwhile: the next try makes another
		_ = f.Close()
		return nil, fmt.Errorf("lock out other agents: %w", unix.EWOULDBLOCK)
	}
	return f, nil
}

// isSame tells whether an open file is still the one at the path.
func isSame(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(path)
	return err == nil && os.SameFile(open, now)
}

// removePaths takes away what an agent without successor leaves, but the lock: who
// removes that lets two have it.
func (s *settings) removePaths() error {
	return errors.Join(handover.Remove(s.doorPath()), s.setRelieved(false))
}
