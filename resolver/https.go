// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

const dnsMessage = "application/dns-message"

// newTLS is what connections to one upstream have in common: the name to verify
// (RFC 8310 section 8), and sessions to resume.
func (p *peer) newTLS() *tls.Config {
	return &tls.Config{
		ServerName: p.up.host(), RootCAs: p.scope.server.cfg.RootCAs,
		MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(maxStreams),
	}
}

// newHTTP speaks HTTP/2 (RFC 8484 section 5.2), on few connections as it does.
func (p *peer) newHTTP() *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return p.scope.dial(ctx, "tcp", p.up.addr)
			},
			TLSClientConfig: p.tls, ForceAttemptHTTP2: true,
			MaxConnsPerHost: maxStreams, IdleConnTimeout: streamIdle, TLSHandshakeTimeout: connectTimeout,
		},
	}
}

// post asks by HTTPS. The answer, or what went wrong, is delivered to the try.
func (p *peer) post(ctx context.Context, t *try) {
	reply, err := p.postOnce(ctx, t)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	t.deliver(delivery{reply: reply, err: err})
}

func (p *peer) postOnce(ctx context.Context, t *try) (*message, error) {
	host := net.JoinHostPort(p.up.host(), strconv.Itoa(int(p.up.addr.Port())))
	// With ID 0, as RFC 8484 section 4.1 has it: HTTP knows which answer is whose.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+p.up.path, bytes.NewReader(outgoing(nil, t.req, 0, t.opt)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", dnsMessage)
	req.Header.Set("Accept", dnsMessage)
	req.Header.Set("User-Agent", "dnsteer")
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, unwrapURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered HTTP %s", resp.Status)
	}
	if kind := resp.Header.Get("Content-Type"); kind != dnsMessage {
		return nil, fmt.Errorf("answered with %q, not with %s", kind, dnsMessage)
	}
	wire, err := io.ReadAll(io.LimitReader(resp.Body, maxWire+1))
	if err != nil {
		return nil, err
	}
	if len(wire) > maxWire {
		return nil, errors.New("answered with more than a message")
	}
	return readPosted(wire, t.req, resp.Header.Get("Age"))
}

// unwrapURL leaves out the URL, which who reads the error knows.
func unwrapURL(err error) error {
	if cause := errors.Unwrap(err); cause != nil {
		return cause
	}
	return err
}

// readPosted reads an answer, whose TTLs HTTP caches have not touched (RFC 8484
// section 5.1).
func readPosted(wire []byte, req *Request, since string) (*message, error) {
	m, err := parseMessage(wire)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errMalformed, err)
	}
	if !isReply(m, req, 0) {
		return nil, errors.New("answered another question")
	}
	if seconds, err := strconv.ParseUint(since, 10, 31); err == nil && seconds > 0 && !m.signed {
		age(m.wire, m.ttls(), uint32(seconds))
	}
	return m, nil
}

// ttls are the places of the TTLs of records; that of an OPT record is none.
func (m *message) ttls() []uint16 {
	var places []uint16
	for i, r := range m.records {
		if i != m.opt {
			places = append(places, uint16(r.data-6))
		}
	}
	return places
}
