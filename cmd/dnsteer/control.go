// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

// request is what the privileged side asks of the worker. Each gets one response.
type request struct {
	Do       verb             `json:"do"`
	Routes   []resolver.Route `json:"routes,omitempty"`  // doConfigure, doNames
	Search   []string         `json:"search,omitempty"`  // doConfigure, doNames
	Timeout  time.Duration    `json:"timeout,omitempty"` // this and the next two: doConfigure, doNames
	Attempts int              `json:"attempts,omitempty"`
	Rotate   bool             `json:"rotate,omitempty"`
	// ForwardSpecial and RandomCase are those of resolver.Config; doConfigure.
	ForwardSpecial bool              `json:"forwardSpecial,omitempty"`
	RandomCase     bool              `json:"randomCase,omitempty"`
	Sources        []resolver.Source `json:"sources,omitempty"`  // doConfigure, doNames
	QueryLog       int               `json:"queryLog,omitempty"` // doConfigure
	Scope          loader.Scope      `json:"scope,omitzero"`     // doConfigure: what it will be
}

type verb string

const (
	doConfigure verb = "configure" // first of all: serve, but do not beat yet
	doBeat      verb = "beat"      // the scope is enrolled: keep its heart beating
	doNames     verb = "names"     // here are other names
	doWithdraw  verb = "withdraw"  // end the scope; go on answering
	doStop      verb = "stop"      // answer what has arrived, then exit
)

type response struct {
	Error    string   `json:"error,omitempty"`
	Names    int      `json:"names,omitempty"`    // size of the table
	Warnings []string `json:"warnings,omitempty"` // of the table
	Refused  bool     `json:"refused,omitempty"`  // the kernel wants a capability for BPF maps
}

const (
	// controlTimeout bounds one request. Parsing a million names takes some seconds.
	controlTimeout = 20 * time.Second
	// endTimeout bounds the last one: a resolver that hangs is killed sooner than a service
	// manager would kill us.
	endTimeout = 2 * time.Second
)

// control is the privileged side's end.
type control struct {
	conn    net.Conn
	encoder *json.Encoder
	decoder *json.Decoder
}

// newControl returns our end, and the worker's end as a file to pass on.
func newControl() (*control, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("open control socket: %w", err)
	}
	return &control{conn, json.NewEncoder(conn), json.NewDecoder(conn)}, theirs, nil
}

// call is not safe for concurrent use.
func (c *control) call(r request) (response, error) {
	timeout := controlTimeout
	if r.Do == doWithdraw {
		timeout = endTimeout
	}
	_ = c.conn.SetDeadline(time.Now().Add(timeout))
	if err := c.encoder.Encode(r); err != nil {
		return response{}, fmt.Errorf("tell the resolver to %s: %w", r.Do, err)
	}
	var resp response
	if err := c.decoder.Decode(&resp); err != nil {
		return response{}, fmt.Errorf("tell the resolver to %s: %w", r.Do, err)
	}
	if resp.Error != "" {
		return resp, errors.New(resp.Error)
	}
	return resp, nil
}

func (c *control) close() { _ = c.conn.Close() }
