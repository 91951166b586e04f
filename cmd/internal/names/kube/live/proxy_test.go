// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"
)

// proxy stands in front of an API server and does to it what networks and
// administrators do.
type proxy struct {
	*httptest.Server
	lists atomic.Int64 // that came by

	mu sync.Mutex
	// spoil answers a request itself, and says so.
	spoil func(w http.ResponseWriter, r *http.Request) bool
}

func newProxy(t testing.TB, p *plane) *proxy {
	t.Helper()
	target, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(p.config)
	if err != nil {
		t.Fatal(err)
	}
	to := httputil.NewSingleHostReverseProxy(target)
	to.Transport, to.FlushInterval = transport, -1
	x := new(proxy)
	x.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { _ = recover() }() // the proxy gives up streams that are cut that way
		if !isWatch(r) {
			x.lists.Add(1)
		}
		x.mu.Lock()
		spoil := x.spoil
		x.mu.Unlock()
		if spoil == nil || !spoil(w, r) {
			to.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		x.CloseClientConnections()
		x.Close()
	})
	return x
}

func isWatch(r *http.Request) bool { return r.URL.Query().Get("watch") != "" }

// cut ends all connections, and spoils what comes from now on.
func (x *proxy) cut(spoil func(w http.ResponseWriter, r *http.Request) bool) {
	x.mu.Lock()
	x.spoil = spoil
	x.mu.Unlock()
	x.CloseClientConnections()
}

func (x *proxy) rest() *rest.Config { return &rest.Config{Host: x.URL} }

// status answers as an API server does.
func status(w http.ResponseWriter, code int, reason, message string) bool {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":%q,"reason":%q,"code":%d}`, message, reason, code)
	return true
}
