// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/agentstatus"
)

// What -probe may be.
const (
	probeReady = "ready"
	probeAlive = "alive"
)

// probePatience is how long an agent may be silent and still be alive: much longer than
// pods wait for it, which pass it by after 2 s.
const probePatience = 10 * time.Second

// probe is what the kubelet executes in the agent's container. There may be two agents on
// the node, and one socket to ask at: the one that answers is in our container, or it is
// not ours to judge. So an agent that waits is alive, but not ready, and one that hangs is
// neither; then the one that waits is started again with it, which does no harm.
func (s *settings) runProbe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	status, err := agentstatus.Get(ctx, agentstatus.Socket(s.socket))
	if s.probe == probeAlive {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			return nil // none serves yet
		}
		return err
	}
	if err != nil {
		return err
	}
	ours, err := os.ReadFile(procDir + "/self/cgroup")
	if err != nil {
		return fmt.Errorf("find own container: %w", err)
	}
	theirs, err := os.ReadFile(fmt.Sprintf("%s/%d/cgroup", procDir, status.PID))
	if err != nil {
		return fmt.Errorf("find the agent's container: %w", err)
	}
	if string(ours) != string(theirs) {
		return fmt.Errorf("not ready: the agent of this node is process %d, of another container", status.PID)
	}
	return nil
}
