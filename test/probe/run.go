// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// biggestMessage is more than any answer of the tests.
const biggestMessage = 65535

// prober runs Specs, one at a time.
type prober struct {
	maker   *os.File // makes sockets for OwnerPassed; may be nil
	pause   func() error
	buf     []byte // for what is received
	threads threads
}

// sequence is a Spec in progress.
type sequence struct {
	*prober
	spec      Spec
	fd        int
	questions *questions
	answers   []Answer
}

// run makes the calls of a Spec on a thread of its owner's. An error means that it cannot
// be run at all; what the calls on the socket say is in the Result.
func (p *prober) run(spec Spec) (result Result, err error) {
	p.threads.do(spec.Owner, func() { result, err = p.runHere(spec) })
	return result, err
}

func (p *prober) runHere(spec Spec) (Result, error) {
	fd, err := spec.open(p.maker)
	if err != nil {
		return Result{}, err
	}
	defer unix.Close(fd)
	s := &sequence{prober: p, spec: spec, fd: fd, questions: newQuestions()}
	var result Result
	for _, step := range spec.Steps {
		err := s.step(step)
		var errno unix.Errno
		if errors.As(err, &errno) {
			result.Errno, result.Stage = errnoName(errno), step.Call
			break
		}
		if err != nil {
			return Result{}, fmt.Errorf("%s: %w", step.Call, err)
		}
	}
	slices.SortStableFunc(s.answers, func(a, b Answer) int { return a.Question - b.Question })
	result.Answers = s.answers
	if peer, err := unix.Getpeername(fd); err == nil {
		result.Peer = addrPort(peer)
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return Result{}, os.NewSyscallError("getsockname", err)
	}
	result.Local = addrPort(local)
	return result, nil
}

// errnoName names an error, also one that user space was never meant to see (524).
func errnoName(errno unix.Errno) string {
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", int(errno))
}

func (s *sequence) step(step Step) error {
	switch step.Call {
	case Bind:
		return unix.Bind(s.fd, s.spec.Family.sockaddr(step.To))
	case Connect:
		return unix.Connect(s.fd, s.spec.Family.sockaddr(step.To))
	case Disconnect:
		return disconnect(s.fd)
	case BindDevice, BindLate, UnicastIf, UnicastIf6, StickyInfo:
		return s.tie(step)
	case Send, SendTo, SendMany, SendFastOpen:
		return s.ask(step)
	case RecvFrom, RecvMsg, Peek, Recv:
		return s.receive(step.Call)
	case Pause:
		return s.pause()
	}
	return fmt.Errorf("unknown call %q", step.Call)
}

// tie ties the socket to an interface or an address by an option.
func (s *sequence) tie(step Step) error {
	index := 0
	if step.Device != "" {
		var err error
		if index, err = s.indexOf(step.Device); err != nil {
			return err
		}
	}
	bigEndian := int(int32(binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, uint32(index)))))
	switch step.Call {
	case BindDevice:
		return unix.BindToDevice(s.fd, step.Device)
	case UnicastIf:
		return unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_UNICAST_IF, bigEndian)
	case UnicastIf6:
		return unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_IF, bigEndian)
	case BindLate:
		if err := unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return err
		}
		return unix.Bind(s.fd, s.spec.Family.sockaddr(step.To))
	}
	info := s.spec.Family.pktInfo(index, step.Source)
	return unix.SetsockoptString(s.fd, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, string(info[unix.CmsgLen(0):unix.CmsgLen(unix.SizeofInet6Pktinfo)]))
}

// indexOf returns the number of an interface.
func (s *sequence) indexOf(device string) (int, error) {
	request, err := unix.NewIfreq(device)
	if err != nil {
		return 0, err
	}
	err = unix.IoctlIfreq(s.fd, unix.SIOCGIFINDEX, request)
	return int(request.Uint32()), err
}

// ask sends questions.
func (s *sequence) ask(step Step) error {
	if step.Call == SendMany {
		var messages [][]byte
		for range step.Many {
			message, err := s.questions.next(false)
			if err != nil {
				return err
			}
			messages = append(messages, message)
		}
		return sendMany(s.fd, s.spec.Family, step.Many, messages)
	}
	message, err := s.questions.next(s.spec.Stream)
	if err != nil {
		return err
	}
	var to unix.Sockaddr
	if step.To.IsValid() {
		to = s.spec.Family.sockaddr(step.To)
	}
	switch {
	case step.Call == SendFastOpen:
		return unix.Sendto(s.fd, message, unix.MSG_FASTOPEN, to)
	case step.PktInfo:
		index := 0
		if step.Device != "" {
			if index, err = s.indexOf(step.Device); err != nil {
				return err
			}
		}
		_, err := unix.SendmsgN(s.fd, message, s.spec.Family.pktInfo(index, step.Source), to, 0)
		return err
	case to != nil:
		return unix.Sendto(s.fd, message, 0, to)
	}
	return unix.Send(s.fd, message, 0)
}

// receive takes one answer.
func (s *sequence) receive(call Call) error {
	if s.spec.Stream {
		return s.receiveStream()
	}
	var n int
	var from unix.Sockaddr
	var err error
	switch call {
	case Recv:
		n, err = recv(s.fd, s.buf)
	case RecvMsg:
		n, _, _, from, err = unix.Recvmsg(s.fd, s.buf, nil, 0)
	case Peek:
		n, from, err = unix.Recvfrom(s.fd, s.buf, unix.MSG_PEEK)
	default:
		n, from, err = unix.Recvfrom(s.fd, s.buf, 0)
	}
	if err != nil {
		return err
	}
	answer := s.questions.answer(s.buf[:n])
	answer.From = addrPort(from)
	s.answers = append(s.answers, answer)
	return nil
}

// receiveStream takes a message with its length prefix. Streams give no sender.
func (s *sequence) receiveStream() error {
	prefix, err := s.readFull(s.buf[:2])
	if err != nil {
		return err
	}
	message, err := s.readFull(s.buf[:binary.BigEndian.Uint16(prefix)])
	if err != nil {
		return err
	}
	s.answers = append(s.answers, s.questions.answer(message))
	return nil
}

func (s *sequence) readFull(buf []byte) ([]byte, error) {
	for got := 0; got < len(buf); {
		n, err := recv(s.fd, buf[got:])
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, unix.ECONNRESET
		}
		got += n
	}
	return buf, nil
}
