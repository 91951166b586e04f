// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"syscall"
	"testing"
)

// What goes wrong again and again in the same way is the same news, whatever the question's
// parameters and our port.
func TestGist(t *testing.T) {
	server := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 6443}
	try := func(n int, err error) error {
		return fmt.Errorf("list: %w", &url.Error{Op: "Get", URL: fmt.Sprint("https://192.0.2.1:6443/api/v1/services?timeoutSeconds=", n), Err: err})
	}
	reset := func(n int) error {
		return try(n, &net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 40000 + n}, Addr: server, Err: syscall.ECONNRESET})
	}
	if a, b := gist(reset(1)), gist(reset(2)); a != b || !strings.Contains(a, "192.0.2.1:6443") || !strings.Contains(a, "reset") {
		t.Errorf("%q, then %q", a, b)
	}
	text := errors.New("x509: certificate signed by unknown authority")
	if got := gist(try(3, text)); got != text.Error() {
		t.Errorf("%q", got)
	}
}
