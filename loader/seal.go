// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A scope ends with the socket that carries it. If that were a listener, whoever keeps a
// descriptor of it for the next resolver would keep the scope of a dead one. A seal is a
// UDP socket that carries the scope and nothing else: it has an address to which no query
// goes, the programs look it up beside the listener, and only the resolver holds it.

// Seal returns listeners for a resolver whose death its starter is to outlive: the same
// sockets, and seals, one for each family. Pass them on, and Close your own. When the
// resolver ends, however it does, steering ends with it in that instant. What has arrived
// at the listeners, and what connected sockets go on to send, waits there for the next
// resolver, for as long as l is open.
//
// At any time only one resolver can have seals: the error wraps unix.EADDRINUSE while
// another holds them. Call it in the listeners' network namespace.
func (l *Listeners) Seal() (*Listeners, error) {
	sealed := &Listeners{Port: l.Port}
	err := l.copyTo(sealed)
	for _, s := range l.sockets {
		if err == nil && !s.stream && !s.tags {
			err = l.seal(sealed, s.family)
		}
	}
	if err != nil {
		sealed.Close()
		return nil, fmt.Errorf("seal port %d: %w", l.Port, err)
	}
	return sealed, nil
}

// copyTo gives another the same sockets, by descriptors of its own.
func (l *Listeners) copyTo(other *Listeners) error {
	for _, s := range l.sockets {
		fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		same := *s
		same.file, same.fd = os.NewFile(uintptr(fd), "listener"), fd
		other.sockets = append(other.sockets, &same)
	}
	return nil
}

// seal adds the seal of a family. The kernel takes its address for one of the wildcard
// socket's, which has to share the port for that moment, as in open.
func (l *Listeners) seal(sealed *Listeners, family int) (err error) {
	owner := privateOwner()
	for _, s := range l.sockets {
		if s.tags && !s.stream && s.family == family {
			defer func() { err = errors.Join(err, s.unshare()) }()
			if err := s.share(owner); err != nil {
				return err
			}
		}
	}
	s, err := openSocket(family, false, false)
	if err != nil {
		return err
	}
	s.seal = true
	sealed.sockets = append(sealed.sockets, s)
	if err := errors.Join(s.prepare(), s.share(owner)); err != nil {
		return err
	}
	return errors.Join(s.bind(l.Port), s.unshare())
}
