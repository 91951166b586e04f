// SPDX-License-Identifier: Apache-2.0

package dnsteer

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// readyTimeout bounds the start: a fifth of a second on an idle machine.
	readyTimeout = 20 * time.Second
	// stopTimeout bounds the end, of which the reply hooks linger for a second.
	stopTimeout = 20 * time.Second
)

// Service is one "dnsteer run".
type Service struct {
	Place Place
	BPFFS string

	tb     testing.TB
	cmd    *exec.Cmd
	stderr *testenv.LogBook
	ended  chan struct{} // closed when it has been waited for
}

// Run starts "dnsteer run" with flags and returns when it has said that it is ready
// (sd_notify). It is stopped when the test ends.
func Run(tb testing.TB, p Place, bpffs string, flags ...string) *Service {
	tb.Helper()
	s := &Service{Place: p, BPFFS: bpffs, tb: tb, stderr: new(testenv.LogBook), ended: make(chan struct{})}
	args := append([]string{"run", "--cgroup", p.Cgroup.Path, "--bpffs", bpffs}, flags...)
	s.cmd = p.Command(tb, args...)
	s.cmd.Stderr = s.stderr
	manager, path := listenNotify(tb)
	s.cmd.Env = append(s.cmd.Env, "NOTIFY_SOCKET="+path)
	p.Start(tb, s.cmd)
	go func() {
		defer close(s.ended)
		_ = s.cmd.Wait() // Stop looks at how it ended
	}()
	tb.Cleanup(s.cleanUp)
	s.awaitReady(manager)
	return s
}

// listenNotify plays the service manager. Socket names are limited to 107 bytes,
// hence not below TempDir.
func listenNotify(tb testing.TB) (*net.UnixConn, string) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "n")
	if err != nil {
		tb.Fatalf("make directory: %v", err)
	}
	path := filepath.Join(dir, "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		tb.Fatalf("listen for readiness: %v", err)
	}
	tb.Cleanup(func() {
		conn.Close()
		os.RemoveAll(dir)
	})
	return conn, path
}

func (s *Service) awaitReady(manager *net.UnixConn) {
	s.tb.Helper()
	ready := make(chan error, 1)
	_ = manager.SetReadDeadline(time.Now().Add(readyTimeout))
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := manager.Read(buf)
			if err != nil || bytes.Contains(buf[:n], []byte("READY=1")) {
				ready <- err
				return
			}
		}
	}()
	select {
	case err := <-ready:
		if err != nil {
			s.tb.Fatalf("wait for dnsteer run: %v\n%s", err, s.stderr)
		}
	case <-s.ended:
		manager.Close()
		<-ready
		s.tb.Fatalf("dnsteer run has ended: %v\n%s", s.cmd.ProcessState, s.stderr)
	}
}

// PID is the process of "dnsteer run" itself.
func (s *Service) PID() int { return s.cmd.Process.Pid }

// Stderr is what it has printed so far.
func (s *Service) Stderr() string { return s.stderr.String() }

// AwaitStderr returns when it has printed text.
func (s *Service) AwaitStderr(text string) {
	s.tb.Helper()
	testenv.Eventually(s.tb, readyTimeout, func() error {
		if !strings.Contains(s.Stderr(), text) {
			return fmt.Errorf("dnsteer run did not print %q, but:\n%s", text, s.Stderr())
		}
		return nil
	})
}

// Signal sends it a signal.
func (s *Service) Signal(sig os.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatalf("signal dnsteer run: %v", err)
	}
}

// Worker is the process of its resolver; zero if there is none.
func (s *Service) Worker() int { return Worker(s.PID()) }

// Stop tells it to end (SIGTERM) and fails the test unless it ends well.
func (s *Service) Stop() {
	s.tb.Helper()
	s.Signal(unix.SIGTERM)
	s.Wait()
	if !s.cmd.ProcessState.Success() {
		s.tb.Errorf("stop dnsteer run: %v\n%s", s.cmd.ProcessState, s.stderr)
	}
}

// Kill ends it without a chance to clean up, and returns when it is gone.
func (s *Service) Kill() {
	s.tb.Helper()
	s.Signal(unix.SIGKILL)
	s.Wait()
}

// Wait returns when it has ended.
func (s *Service) Wait() {
	s.tb.Helper()
	select {
	case <-s.ended:
	case <-time.After(stopTimeout):
		s.tb.Fatalf("wait %v: dnsteer run does not end\n%s", stopTimeout, s.stderr)
	}
}

// cleanUp is for a test that did not come to Stop.
func (s *Service) cleanUp() {
	select {
	case <-s.ended:
		return
	default:
	}
	_ = s.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(stopTimeout):
		s.tb.Errorf("dnsteer run does not end and is killed\n%s", s.stderr)
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}
