// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// restarts are how often "dnsteer run" has had to start its resolver again.
type restarts struct {
	Count  int       `json:"count"`
	Last   time.Time `json:"last,omitzero"`
	Reason string    `json:"reason,omitempty"` // of the last one
}

func (r restarts) String() string {
	if r.Count == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, the last one %v ago: %s", r.Count, time.Since(r.Last).Round(time.Second), r.Reason)
}

// restartLog counts them, and tells whoever asks.
type restartLog struct {
	mu sync.Mutex // guards what follows
	restarts
}

func (l *restartLog) note(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.restarts = restarts{l.Count + 1, time.Now(), reason}
}

// restartsSocket is where a run tells of its restarts: a name that exists in its network
// namespace alone, for as long as it runs, and in no filesystem.
func restartsSocket(port uint16) string { return fmt.Sprintf("@dnsteer-run-%d", port) }

// restartsTimeout bounds what takes a millisecond.
const restartsTimeout = time.Second

// listen tells of restarts until the listener is closed.
func (l *restartLog) listen(port uint16) (net.Listener, error) {
	listener, err := net.Listen("unix", restartsSocket(port))
	if err != nil {
		return nil, fmt.Errorf("tell of restarts: %w", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(restartFirst) // descriptors are short
				continue
			}
			l.tell(conn)
		}
	}()
	return listener, nil
}

// tell does not block: what it writes is less than a socket holds.
func (l *restartLog) tell(conn net.Conn) {
	defer conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = conn.SetDeadline(time.Now().Add(restartsTimeout))
	_ = json.NewEncoder(conn).Encode(l.restarts) // who does not listen does not want to know
}

// askRestarts asks the run that steers to a port in this network namespace; nil if none
// tells.
func askRestarts(port uint16) *restarts {
	conn, err := net.DialTimeout("unix", restartsSocket(port), restartsTimeout)
	if err != nil {
		return nil
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(restartsTimeout))
	r := new(restarts)
	// Anybody could take the name.
	if !isRoots(conn.(*net.UnixConn)) || json.NewDecoder(conn).Decode(r) != nil {
		return nil
	}
	return r
}

// isRoots reports whether root listens at the other end.
func isRoots(conn syscall.Conn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	err = errors.Join(raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}), err)
	return err == nil && cred.Uid == 0
}
