// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// maxMessage bounds a message: a table of a million hosts.
const maxMessage = 64 << 20

// Codes of gRPC, of those that are told apart.
const (
	statusPermissionDenied = 7
	statusUnimplemented    = 12
	statusInternal         = 13
	statusUnauthenticated  = 16
)

// statusError is how a server ended a stream.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("status %d", e.code)
	}
	return fmt.Sprintf("status %d: %s", e.code, e.text)
}

// statusIs reports whether a server ended a stream with a code.
func statusIs(err error, code int) bool {
	var status *statusError
	return errors.As(err, &status) && status.code == code
}

// stream is one call of gRPC with messages both ways. One goroutine sends and receives.
type stream struct {
	out    *io.PipeWriter
	res    *http.Response
	forget func() bool // ctx
}

// open calls a method and sends the first message. The stream lives until close, or until
// ctx ends.
func open(ctx context.Context, client http.RoundTripper, target string, header http.Header, first []byte) (*stream, error) {
	body, out := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, body)
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	// The client waits for the body and does not look at ctx meanwhile.
	s := &stream{out: out, forget: context.AfterFunc(ctx, func() { _ = out.CloseWithError(context.Cause(ctx)) })}
	// A server may answer before it has anything to say, or not until then. Whatever
	// ends the call closes the body, and this write with it.
	go func() { _ = s.send(first) }()
	s.res, err = client.RoundTrip(req)
	if err != nil {
		s.forget()
		_ = out.Close()
		return nil, err
	}
	if err := s.check(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// check finds out whether the other side speaks gRPC, and has not ended the call already.
func (s *stream) check() error {
	if s.res.StatusCode != http.StatusOK || s.res.ProtoMajor != 2 {
		return fmt.Errorf("%s %s, which is not gRPC", s.res.Proto, s.res.Status)
	}
	return statusOf(s.res.Header)
}

func (s *stream) close() {
	s.forget()
	_ = s.out.Close()
	_ = s.res.Body.Close()
}

// send sends a message.
func (s *stream) send(message []byte) error {
	head := make([]byte, 5, 5+len(message))
	binary.BigEndian.PutUint32(head[1:], uint32(len(message)))
	_, err := s.out.Write(append(head, message...))
	return err
}

// receive waits for a message. After the last one it returns what the server said of the
// end, or io.EOF.
func (s *stream) receive() ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(s.res.Body, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			if status := statusOf(s.res.Trailer); status != nil {
				return nil, status
			}
		}
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	switch {
	case head[0] != 0:
		return nil, errors.New("a message is compressed, which nobody has asked for")
	case size > maxMessage:
		return nil, fmt.Errorf("a message has %d octets, more than %d", size, maxMessage)
	}
	// It grows with what comes, not with what is announced.
	var message bytes.Buffer
	if _, err := io.CopyN(&message, s.res.Body, int64(size)); err != nil {
		return nil, fmt.Errorf("read a message: %w", noEOF(err))
	}
	return message.Bytes(), nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// statusOf is the error in a trailer, nil if there is none.
func statusOf(trailer http.Header) error {
	code, err := strconv.Atoi(trailer.Get("Grpc-Status"))
	if err != nil || code == 0 {
		return nil
	}
	text := trailer.Get("Grpc-Message")
	if plain, err := url.PathUnescape(text); err == nil {
		text = plain
	}
	return &statusError{code, text}
}
