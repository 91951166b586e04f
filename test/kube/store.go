// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"path/filepath"
)

// maxPuts is how many keys etcd takes in one transaction.
const maxPuts = 128

// Store writes keys and values into etcd itself, past the API server, which needs minutes
// for what this does in seconds. A key is the object's in the storage of Kubernetes, such as
// /registry/services/specs/default/web, a value what the API server would have written
// there: nothing is checked, defaulted or allocated. The last one is a revision of its own:
// to the API server a revision is one object, and whoever lists while it is within one of
// many never learns of the rest.
func (c *ControlPlane) Store(pairs iter.Seq2[string, []byte]) {
	c.tb.Helper()
	etcd := gateway(filepath.Join(c.dir, "client.sock"))
	defer etcd.CloseIdleConnections()
	var puts []operation
	for key, value := range pairs {
		if len(puts) == maxPuts {
			c.commit(etcd, puts)
			puts = puts[:0]
		}
		puts = append(puts, operation{put{[]byte(key), value}})
	}
	if last := len(puts) - 1; last > 0 {
		c.commit(etcd, puts[:last])
		puts = puts[last:]
	}
	c.commit(etcd, puts)
}

// What etcd's gateway understands: its protocol buffers as JSON.
type (
	transaction struct {
		Success []operation `json:"success"`
	}
	operation struct {
		Put put `json:"requestPut"`
	}
	put struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
	}
)

// gateway speaks HTTP to a unix socket.
func gateway(path string) *http.Client {
	var d net.Dialer
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", path)
	}}}
}

func (c *ControlPlane) commit(etcd *http.Client, puts []operation) {
	c.tb.Helper()
	body, err := json.Marshal(transaction{puts})
	if err != nil {
		c.tb.Fatalf("write to etcd: %v", err)
	}
	response, err := etcd.Post("http://etcd/v3/kv/txn", "application/json", bytes.NewReader(body))
	if err != nil {
		c.tb.Fatalf("write to etcd: %v", err)
	}
	text, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		c.tb.Fatalf("write to etcd: %v", err)
	}
	if response.StatusCode != http.StatusOK {
		c.tb.Fatalf("write to etcd: %s: %s", response.Status, text)
	}
}
