// SPDX-License-Identifier: Apache-2.0

package cnirpc

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// headerLen is the length in front: 4 bytes, in network order.
const headerLen = 4

// maxFiles is how many descriptors are looked at in one message; the kernel closes
// what is beyond. One is right; more are closed and refused.
const maxFiles = 4

var (
	errTooLong   = fmt.Errorf("message is longer than %d bytes", maxMessage)
	errManyFiles = errors.New("message has more than one descriptor")
	errTruncated = errors.New("message ends early")
)

// send writes a message, with a descriptor unless file is nil. The file stays the
// caller's.
func send(conn *net.UnixConn, message any, file *os.File) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(body) > maxMessage {
		return errTooLong
	}
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	// The descriptor travels with the first byte that the kernel takes.
	n, _, err := conn.WriteMsgUnix(frame, rights, nil)
	if err != nil || n == len(frame) {
		return err
	}
	_, err = conn.Write(frame[n:])
	return err
}

// receive reads a message and the descriptor that came with it, nil without one. The
// file is the caller's, who closes it. Without a message there is no file.
func receive(conn *net.UnixConn, message any) (*os.File, error) {
	file, length, err := receiveHeader(conn)
	if err == nil {
		err = receiveBody(conn, length, message)
	}
	if err != nil && file != nil {
		_ = file.Close()
		file = nil
	}
	return file, err
}

func receiveBody(conn *net.UnixConn, length uint32, message any) error {
	if length > maxMessage {
		return errTooLong
	}
	// What is promised is not allocated before it comes.
	body, err := io.ReadAll(io.LimitReader(conn, int64(length)))
	if err != nil {
		return err
	}
	if len(body) < int(length) {
		return errTruncated
	}
	if err := json.Unmarshal(body, message); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	return nil
}

// receiveHeader reads the length, and with it what descriptors there are.
func receiveHeader(conn *net.UnixConn) (*os.File, uint32, error) {
	var header [headerLen]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	var files []*os.File
	var err error
	for read := 0; read < headerLen && err == nil; {
		var n, oobn int
		n, oobn, _, _, err = conn.ReadMsgUnix(header[read:], oob)
		files = append(files, filesIn(oob[:oobn])...)
		read += n
		if n == 0 && err == nil {
			err = errTruncated
		}
		if errors.Is(err, io.EOF) && read > 0 {
			err = errTruncated
		}
	}
	if len(files) > 1 && err == nil {
		err = errManyFiles
	}
	if err != nil {
		for _, f := range files {
			_ = f.Close()
		}
		return nil, 0, err
	}
	if len(files) == 0 {
		return nil, binary.BigEndian.Uint32(header[:]), nil
	}
	return files[0], binary.BigEndian.Uint32(header[:]), nil
}

// filesIn takes over all descriptors in a control message.
func filesIn(oob []byte) []*os.File {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "namespace"))
		}
	}
	return files
}
