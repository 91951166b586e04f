// SPDX-License-Identifier: Apache-2.0

package cnirpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// requestTimeout is how long a client that has connected may take to ask. It has the
	// request ready when it connects.
	requestTimeout = time.Second
	// longestTimeout bounds what a client may grant.
	longestTimeout = time.Minute
	// maxConns bounds the requests at work. Others wait in the socket's backlog: a
	// kubelet starts some ten pods at once, and repeats what fails.
	maxConns = 64
)

// Server answers the requests of plugins.
type Server struct {
	Agent Agent
	// Log gets requests that are refused. Nil discards.
	Log *slog.Logger
}

// Listen opens the agent's socket, for root alone, below a directory that it makes if
// need be. It takes the path over from whoever has it, in one step: there is no moment
// without a socket, and the connections of the one before stay its own. That only one
// agent runs is for the caller to see to.
//
// Closing the listener leaves the path alone: it may be a successor's. See Remove.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	aside := path + "." + strconv.Itoa(os.Getpid())
	if err := CheckPath(aside); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: aside, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(aside, 0o600)
	if err == nil {
		err = os.Rename(aside, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(aside)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// Remove takes the path of a listener away, for an agent that has no successor.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}

// Serve answers until ctx ends, or the listener breaks. It then closes the listener and
// returns when the requests that have begun are answered.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	var requests sync.WaitGroup
	defer requests.Wait()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })()
	turns := make(chan struct{}, maxConns)
	for {
		turns <- struct{}{}
		conn, err := l.AcceptUnix()
		switch {
		case err == nil: // it has begun, also if ctx has just ended
		case ctx.Err() != nil:
			return nil
		case isPassing(err):
			s.log().Warn("wait before the next plugin", "err", err)
			<-turns
			pause(ctx)
			continue
		default:
			return fmt.Errorf("serve plugins: %w", err)
		}
		requests.Go(func() {
			defer func() { <-turns }()
			defer conn.Close()
			if err := s.serve(ctx, conn); err != nil {
				s.log().Warn("refuse a plugin", "err", err)
			}
		})
	}
}

// isPassing tells of errors of accept that are about the moment, not about the socket.
func isPassing(err error) bool {
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// pause lets descriptors come free.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(100 * time.Millisecond):
	}
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// serve answers the one request of a connection. It returns what made it refuse.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) error {
	_ = conn.SetDeadline(time.Now().Add(requestTimeout))
	if err := checkPeer(conn); err != nil {
		return errors.Join(err, send(conn, newResponse(err), nil))
	}
	var r request
	file, err := receive(conn, &r)
	if err != nil {
		return err
	}
	defer closeFile(file)
	r.Attachment.Namespace = file
	if file != nil {
		err = checkNamespace(file)
	}
	if err == nil {
		err = r.validate()
	}
	if err != nil {
		return errors.Join(err, send(conn, newResponse(err), nil))
	}
	// What has begun is finished: an agent that ends leaves nothing half-way.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.timeout())
	defer cancel()
	stop := whenClosed(conn, cancel)
	result := s.do(ctx, r)
	stop()
	_ = conn.SetDeadline(time.Now().Add(requestTimeout))
	if err := send(conn, newResponse(result), nil); err != nil {
		return fmt.Errorf("answer %s of %s: %w", r.Do, r.Attachment.ContainerID, err)
	}
	return nil
}

// whenClosed calls f if the client, which has no more to say, closes the connection before
// stop: at once if it has already.
func whenClosed(conn *net.UnixConn, f func()) (stop func()) {
	if isClosed(conn) {
		f()
	}
	_ = conn.SetReadDeadline(time.Time{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			f()
		}
	}()
	return func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		<-ended
	}
}

// isClosed tells whether the client has closed the connection.
func isClosed(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, pollErr := unix.Poll(poll, 0)
		closed = pollErr == nil && n > 0
	})
	return closed || err != nil
}

func (r request) timeout() time.Duration {
	ms := max(1, min(r.TimeoutMS, longestTimeout.Milliseconds()))
	return time.Duration(ms) * time.Millisecond
}

func (s *Server) do(ctx context.Context, r request) error {
	switch r.Do {
	case verbAdd:
		return s.Agent.Add(ctx, r.Attachment)
	case verbDel:
		return s.Agent.Del(ctx, r.Attachment)
	case verbCheck:
		return s.Agent.Check(ctx, r.Attachment)
	case verbGC:
		return s.Agent.GC(ctx, r.Network, r.Valid)
	default: // validate knows no other
		return s.Agent.Status(ctx)
	}
}
