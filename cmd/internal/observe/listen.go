// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Listen opens an address: a loopback address with a port, or the absolute path of a unix
// socket, which only the user that listens may connect to. A socket that somebody left
// there is replaced; one on which somebody listens is not.
func Listen(address string) (net.Listener, error) {
	if filepath.IsAbs(address) {
		return listenUnix(address)
	}
	at, err := netip.ParseAddrPort(strings.Replace(address, "localhost:", "127.0.0.1:", 1))
	if err != nil || !at.Addr().Unmap().IsLoopback() {
		return nil, fmt.Errorf("serve metrics on %q: want a loopback address with a port such as 127.0.0.1:9153, or the path of a unix socket", address)
	}
	return listenTCP(at.String())
}

// ListenAnywhere is Listen for any address of this host, or all of them with ":9153". What
// Serve serves there leaves out profiles.
func ListenAnywhere(address string) (net.Listener, error) {
	if at, err := netip.ParseAddrPort(address); err == nil || strings.HasPrefix(address, ":") {
		if err == nil {
			address = at.String()
		}
		return listenTCP(address)
	}
	return Listen(address)
}

func listenTCP(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	return l, nil
}

// isPrivate tells whether nobody beyond this host can connect.
func isPrivate(l net.Listener) bool {
	at, ok := l.Addr().(*net.TCPAddr)
	return !ok || at.IP.IsLoopback()
}

// dialTimeout is for a connection to ourselves.
const dialTimeout = time.Second

func listenUnix(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if errors.Is(err, unix.EADDRINUSE) && isStale(path) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("serve metrics: %w", err)
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	return l, nil
}

// isStale reports a socket on which nobody listens.
func isStale(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}
