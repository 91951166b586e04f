// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// makerFD is where child and maker find their end of the socket between them.
const makerFD = 3

// serveMaker makes the sockets that the child asks for and passes them on, until the
// child is gone. It is another process, of another user, in the child's cgroup.
func serveMaker([]string) int {
	control := os.NewFile(makerFD, "child")
	buf := make([]byte, 1024)
	for {
		n, err := control.Read(buf)
		if err == io.EOF || n == 0 {
			return 0
		}
		if err == nil {
			err = pass(int(control.Fd()), buf[:n])
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "probe maker:", err)
			return 1
		}
	}
}

// pass makes one socket, hands it over and forgets it.
func pass(control int, request []byte) error {
	var spec Spec
	if err := json.Unmarshal(request, &spec); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	fd, err := spec.socket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return os.NewSyscallError("sendmsg", unix.Sendmsg(control, []byte{0}, unix.UnixRights(fd), nil, 0))
}

// receive has the maker make the Spec's socket.
func (s Spec) receive(maker *os.File) (int, error) {
	if maker == nil {
		return -1, fmt.Errorf("receive socket: this child has no maker")
	}
	s.Steps = nil
	request, err := json.Marshal(s)
	if err != nil {
		return -1, fmt.Errorf("write request: %w", err)
	}
	if _, err := maker.Write(request); err != nil {
		return -1, fmt.Errorf("ask for socket: %w", err)
	}
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(maker.Fd()), make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("receive socket: %d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("receive socket: %d descriptors: %w", len(fds), err)
	}
	return fds[0], nil
}
