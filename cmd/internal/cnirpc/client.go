// SPDX-License-Identifier: Apache-2.0

package cnirpc

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"time"
)

// DefaultTimeout is how long a pod may wait for an agent that hangs. Enrolment takes
// milliseconds; an agent that hangs for 2 s is passed by in the datapath as well.
const DefaultTimeout = 2 * time.Second

// Client asks an agent. Each call is one connection and one request, and ends within
// Timeout. If there is no answer the error is ErrAway; every other error is the agent's.
type Client struct {
	Socket  string        // empty: DefaultSocket
	Timeout time.Duration // zero: DefaultTimeout
}

var _ Agent = Client{}

// Add implements Agent.
func (c Client) Add(ctx context.Context, a Attachment) error {
	return c.call(ctx, request{Do: verbAdd, Attachment: a})
}

// Del implements Agent.
func (c Client) Del(ctx context.Context, a Attachment) error {
	return c.call(ctx, request{Do: verbDel, Attachment: a})
}

// Check implements Agent.
func (c Client) Check(ctx context.Context, a Attachment) error {
	return c.call(ctx, request{Do: verbCheck, Attachment: a})
}

// GC implements Agent. The agent refuses valid == nil.
func (c Client) GC(ctx context.Context, network string, valid []ID) error {
	return c.call(ctx, request{Do: verbGC, Network: network, Valid: valid})
}

// Status implements Agent.
func (c Client) Status(ctx context.Context) error {
	return c.call(ctx, request{Do: verbStatus})
}

func (c Client) call(ctx context.Context, r request) error {
	socket := cmp.Or(c.Socket, DefaultSocket)
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, DefaultTimeout))
	defer cancel()
	resp, err := exchange(ctx, socket, r)
	if err != nil {
		return away(socket, err)
	}
	return resp.err()
}

func exchange(ctx context.Context, socket string, r request) (response, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return response{}, err
	}
	conn := c.(*net.UnixConn)
	defer conn.Close()
	// A context that ends wakes the connection, whatever it waits for.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	deadline, _ := ctx.Deadline()
	r.Version, r.TimeoutMS = Version, max(1, time.Until(deadline).Milliseconds())
	sendErr := send(conn, r, r.Attachment.Namespace)
	var resp response
	file, err := receive(conn, &resp)
	closeFile(file) // an agent sends none
	if err != nil {
		return response{}, errors.Join(sendErr, err)
	}
	// An agent that refuses us may say so before it has read the request.
	return resp, nil
}

func closeFile(f *os.File) {
	if f != nil {
		_ = f.Close()
	}
}
