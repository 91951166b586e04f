// SPDX-License-Identifier: Apache-2.0

// Package handover carries an agent's belongings to the next: packets of JSON with
// descriptors beside them (SCM_RIGHTS), over a unix socket in a directory that only root and
// agents can look into. What
// is said in which order is for the agents to know.
package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPacket is far beyond a pod with a dozen interfaces.
	maxPacket = 128 << 10
	// maxFiles is the kernel's limit for one packet (SCM_MAX_FD). A pod has ten.
	maxFiles = 253
)

// errTruncated says that a packet had more in it than any of ours.
var errTruncated = errors.New("packet is larger than any of ours")

// network keeps packets apart and in order, and tells of an end.
const network = "unixpacket"

// Listen opens the socket. It takes the path over from whoever has it, in
// one step. Closing the listener leaves the path alone.
func Listen(path string) (*net.UnixListener, error) {
	aside := path + "." + strconv.Itoa(os.Getpid())
	if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen for a successor: %w", err)
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: aside, Net: network})
	if err != nil {
		return nil, fmt.Errorf("listen for a successor: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(aside, 0o600); err == nil {
		err = os.Rename(aside, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(aside)
		return nil, fmt.Errorf("listen for a successor: %w", err)
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

// Conn is one side of a hand-over. It is for one goroutine. Close it.
type Conn struct{ conn *net.UnixConn }

// Dial connects to the agent that runs.
func Dial(ctx context.Context, path string) (*Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, path)
	if err != nil {
		return nil, fmt.Errorf("ask the agent that runs: %w", err)
	}
	return &Conn{c.(*net.UnixConn)}, nil
}

// Accept makes a Conn of what Listen's listener accepted, if it is root or an agent (our
// own user) who asks. It closes it otherwise.
func Accept(conn *net.UnixConn) (*Conn, error) {
	raw, err := conn.SyscallConn()
	var cred *unix.Ucred
	var credErr error
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		})
	}
	if err = errors.Join(err, credErr); err == nil && cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		err = fmt.Errorf("peer is user %d (process %d): only an agent may take over", cred.Uid, cred.Pid)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &Conn{conn}, nil
}

// Send sends a packet; it waits no longer than timeout, forever if that is 0. The files
// stay the caller's.
func (c *Conn) Send(message any, timeout time.Duration, files ...*os.File) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(body) > maxPacket || len(files) > maxFiles {
		return fmt.Errorf("send %d bytes and %d files: %w", len(body), len(files), errTruncated)
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	c.within(timeout)
	_, _, err = c.conn.WriteMsgUnix(body, rights, nil)
	return err
}

// Receive receives a packet, likewise. The files are the caller's, who closes them; with
// an error there are none.
func (c *Conn) Receive(message any, timeout time.Duration) ([]*os.File, error) {
	c.within(timeout)
	body, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(body, oob)
	if err != nil {
		return nil, err
	}
	files, err := filesIn(oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errTruncated
	}
	if err == nil {
		err = json.Unmarshal(body[:n], message)
	}
	if err != nil {
		CloseAll(files)
		return nil, fmt.Errorf("read packet: %w", err)
	}
	return files, nil
}

func (c *Conn) within(timeout time.Duration) {
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	_ = c.conn.SetDeadline(deadline)
}

// Close ends the hand-over: the other side hears of it at once.
func (c *Conn) Close() { _ = c.conn.Close() }

// filesIn takes over all descriptors in a control message.
func filesIn(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

// CloseAll closes files that nobody takes over.
func CloseAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
