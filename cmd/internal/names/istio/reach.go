// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

const dialTimeout = 10 * time.Second

// connection is one connection to istiod, with credentials as their files were when it
// was made.
type connection struct {
	base      string // of URLs
	header    http.Header
	local     netip.Addr
	transport *http.Transport
	wire      *wire
}

// wire is a connection, encrypted or not, that remembers why it ended: HTTP/2 tells that
// it did, and not of the alert of a server that did not like our certificate.
type wire struct {
	net.Conn
	err atomic.Pointer[error]
}

// Read implements net.Conn.
func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		w.err.CompareAndSwap(nil, &err)
	}
	return n, err
}

// connect reads the files and connects.
func (s *Source) connect(ctx context.Context) (*connection, error) {
	k := &connection{base: "http://" + s.Address, header: http.Header{"User-Agent": {"dnsteer"}}}
	if s.Cluster != "" {
		// Which cluster's API server can tell whose token it is.
		k.header.Set("Clusterid", s.Cluster)
	}
	var secure *tls.Config
	if !s.Plaintext {
		k.base = "https://" + s.Address
		var err error
		if secure, err = s.tls(); err != nil {
			return nil, err
		}
		if err := s.authorize(k.header); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return nil, err
	}
	if at, ok := raw.LocalAddr().(*net.TCPAddr); ok {
		k.local = at.AddrPort().Addr().Unmap().WithZone("")
	}
	if secure != nil {
		if raw, err = encrypt(ctx, raw, secure); err != nil {
			return nil, err
		}
	}
	k.wire = &wire{Conn: raw}
	k.transport = newTransport(k.wire, s.timing)
	return k, nil
}

// encrypt makes a connection one over TLS, or closes it.
func encrypt(ctx context.Context, raw net.Conn, secure *tls.Config) (net.Conn, error) {
	conn := tls.Client(raw, secure)
	err := conn.HandshakeContext(ctx)
	if err == nil && conn.ConnectionState().NegotiatedProtocol != http2 {
		err = errors.New("it does not speak HTTP/2, hence not gRPC")
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

const http2 = "h2" // in the words of TLS

// newTransport speaks HTTP/2 over one connection, and makes no other.
func newTransport(conn net.Conn, t timing) *http.Transport {
	var isGiven atomic.Bool
	dial := func(context.Context, string, string) (net.Conn, error) {
		if isGiven.Swap(true) {
			return nil, errors.New("the connection is gone")
		}
		return conn, nil
	}
	// It is told that nothing is encrypted: all that is to be said of TLS is said.
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{DialContext: dial, DialTLSContext: dial, Protocols: protocols, DisableCompression: true,
		HTTP2: &http.HTTP2Config{SendPingTimeout: t.ping, PingTimeout: t.pong}}
}

func (k *connection) close() {
	k.transport.CloseIdleConnections()
	_ = k.wire.Close()
}

// open calls a method of the server.
func (k *connection) open(ctx context.Context, method string, first []byte) (*stream, error) {
	return open(ctx, k.transport, k.base+method, k.header, first)
}

// why is the reason for an error, if the connection knows a better one.
func (k *connection) why(err error) error {
	better := k.wire.err.Load()
	if errors.As(err, new(*statusError)) || better == nil {
		return err
	}
	return *better
}

// tls trusts the root certificates of a file and nothing else, and shows our own
// certificate if there is one.
func (c *Config) tls() (*tls.Config, error) {
	pem, err := os.ReadFile(c.RootCert)
	if err != nil {
		return nil, fmt.Errorf("read root certificates: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read root certificates: %s has none", c.RootCert)
	}
	secure := &tls.Config{RootCAs: roots, ServerName: c.serverName(), NextProtos: []string{http2}, MinVersion: tls.VersionTLS12}
	if c.Cert != "" {
		own, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("read our certificate: %w", err)
		}
		secure.Certificates = []tls.Certificate{own}
	}
	return secure, nil
}

// authorize adds the token, if there is one.
func (c *Config) authorize(header http.Header) error {
	if c.Token == "" {
		return nil
	}
	token, err := os.ReadFile(c.Token)
	if err != nil {
		return fmt.Errorf("read token: %w", err)
	}
	if token = bytes.TrimSpace(token); len(token) == 0 {
		return fmt.Errorf("read token: %s is empty", c.Token)
	}
	header.Set("Authorization", "Bearer "+string(token))
	return nil
}
