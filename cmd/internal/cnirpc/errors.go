// SPDX-License-Identifier: Apache-2.0

package cnirpc

import (
	"errors"
	"fmt"
)

// Errors that cross the socket and keep their meaning.
var (
	ErrUnknown     = errors.New("no such attachment")
	ErrUnavailable = errors.New("agent cannot serve")
	ErrLimited     = errors.New("agent cannot serve, and running pods may have no DNS")
)

// ErrAway is the client's own: there was no answer, in time and of the right form.
var ErrAway = errors.New("no agent answers")

// codes are the sentinels' names on the wire.
func codes() map[string]error {
	return map[string]error{
		"unknown":     ErrUnknown,
		"unavailable": ErrUnavailable,
		"limited":     ErrLimited,
	}
}

func codeOf(err error) string {
	for code, sentinel := range codes() {
		if errors.Is(err, sentinel) {
			return code
		}
	}
	return ""
}

func newResponse(err error) response {
	if err == nil {
		return response{Version: Version}
	}
	return response{Version: Version, Code: codeOf(err), Error: err.Error()}
}

// err is what the agent's method returned, so that errors.Is gives the same.
func (r response) err() error {
	if r.Error == "" {
		return nil
	}
	sentinel, ok := codes()[r.Code]
	if !ok {
		return errors.New(r.Error)
	}
	if r.Error == sentinel.Error() {
		return sentinel
	}
	return answered{r.Error, sentinel}
}

// answered has the agent's words and a sentinel's meaning.
type answered struct {
	text string
	is   error
}

func (a answered) Error() string { return a.text }
func (a answered) Unwrap() error { return a.is }

// away makes an error of what went wrong on the way to an answer.
func away(socket string, err error) error {
	return fmt.Errorf("ask %s: %w: %w", socket, ErrAway, err)
}
