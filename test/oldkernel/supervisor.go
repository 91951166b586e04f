// SPDX-License-Identifier: Apache-2.0

package oldkernel

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification is struct seccomp_notif.
type notification struct {
	id         uint64
	pid, flags uint32
	number     int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	value int64
	errno int32 // negative
	flags uint32
}

// supervisor decides calls until it is stopped.
type supervisor struct {
	mask     Mask
	listener int
	stop     *os.File // closing it ends the supervisor
	ended    chan error
}

// supervise takes over the listener.
func (m Mask) supervise(listener int) (*supervisor, error) {
	stopped, stop, err := os.Pipe()
	if err != nil {
		_ = unix.Close(listener)
		return nil, err
	}
	s := &supervisor{mask: m, listener: listener, stop: stop, ended: make(chan error, 1)}
	go func() {
		defer stopped.Close()
		s.ended <- s.loop(int(stopped.Fd()))
	}()
	return s, nil
}

// close ends the supervisor. Whoever is still under the filter has no bpf(2) at all
// from here on (ENOSYS).
func (s *supervisor) close() error {
	_ = s.stop.Close()
	err := <-s.ended
	_ = unix.Close(s.listener)
	return err
}

func (s *supervisor) loop(stopped int) error {
	for {
		fds := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}, {Fd: int32(stopped)}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for bpf calls: %w", err)
		}
		if fds[1].Revents != 0 {
			return nil
		}
		if fds[0].Revents&unix.POLLHUP != 0 { // nobody is under the filter any more
			return nil
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			continue
		}
		if err := s.answer(); err != nil {
			return err
		}
	}
}

// answer decides one call. The caller may be gone, or have been interrupted to ask
// again (ENOENT).
func (s *supervisor) answer() error {
	var n notification
	if err := control(s.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
			return nil
		}
		return fmt.Errorf("read bpf call: %w", err)
	}
	r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if errno := s.mask.refuse(&n); errno != 0 {
		r.flags, r.errno = 0, -int32(errno)
	}
	if err := control(s.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("answer bpf call: %w", err)
	}
	return nil
}

func control(fd int, request uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}
