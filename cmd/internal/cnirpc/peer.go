// SPDX-License-Identifier: Apache-2.0

package cnirpc

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// CheckPath tells whether a path can be that of a unix socket, whose names are short.
func CheckPath(path string) error {
	const longest = len(unix.RawSockaddrUnix{}.Path) - 1
	if !filepath.IsAbs(path) || len(path) > longest {
		return fmt.Errorf("socket %q is not an absolute path of at most %d bytes", path, longest)
	}
	return nil
}

// checkPeer lets root in, as whom runtimes run plugins, and nobody else.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return os.NewSyscallError("getsockopt", credErr)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("peer is user %d (process %d): only root may ask", cred.Uid, cred.Pid)
	}
	return nil
}

// checkNamespace tells whether a descriptor is one of a network namespace.
func checkNamespace(f *os.File) error {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("descriptor of %s is no network namespace", f.Name())
	}
	return nil
}

// OpenNamespace opens the network namespace that a runtime names. It does not wait,
// whatever the path turns out to be.
func OpenNamespace(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	if err := checkNamespace(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open network namespace %s: it is none", path)
	}
	return f, nil
}
