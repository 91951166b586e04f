// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// page asks what "dnsteer run --metrics SOCKET" serves.
func page(socket, path string) (int, string, error) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := client.Get("http://dnsteer" + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// Metrics are those of datapath and resolver, from a process without privileges, and come
// back with it on the same socket. One that hangs is not healthy.
func TestMetricsOutliveTheResolver(t *testing.T) {
	w := newWorld(t)
	socket := filepath.Join(t.TempDir(), "s")
	service := w.run(t, "--metrics", socket, "--query-log", "1")
	look := func() {
		t.Helper()
		load := w.load(t, patience, Unconnected)
		load.await("answered by the resolver", by(byTable, 0))
		load.stop(0)
		for path, wants := range map[string][]string{
			"/metrics": {`dnsteer_datapath_verdicts_total{family="ipv4",protocol="udp",verdict="steered"} `,
				`dnsteer_resolver_queries_total{protocol="udp",rcode="NOERROR",source="table"} `, "dnsteer_table_names 1"},
			"/healthz": {"ok"},
			"/readyz":  {"ok"},
		} {
			code, body, err := page(socket, path)
			for _, want := range wants {
				if err != nil || code != http.StatusOK || !strings.Contains(body, want) {
					t.Errorf("%s: %d, %v, without %q", path, code, err, want)
				}
			}
		}
	}
	look()
	service.AwaitStderr("qname=" + tableName)
	worker := service.Worker()
	if err := unix.Kill(worker, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, patience, func() error {
		if now := service.Worker(); now == worker || now == 0 {
			return fmt.Errorf("worker is %d, was %d", now, worker)
		}
		code, _, err := page(socket, "/readyz")
		if err != nil || code != http.StatusOK {
			return fmt.Errorf("not ready: %d, %v", code, err)
		}
		return nil
	})
	look()
	service.Stop()
	if _, _, err := page(socket, "/metrics"); err == nil {
		t.Error("served after the end")
	}
}

// With somebody else's resolver the datapath is counted.
func TestMetricsOfTheDatapathAlone(t *testing.T) {
	w := newWorld(t)
	socket := filepath.Join(t.TempDir(), "s")
	w.runWith(t, "--resolver=none", "--metrics", socket)
	load := w.load(t, patience, Unconnected)
	load.await("answered by its nameserver", by(byNameserver, 0))
	load.stop(0)
	code, body, err := page(socket, "/metrics")
	if want := `verdict="no-listener"`; err != nil || code != http.StatusOK || !strings.Contains(body, want) {
		t.Errorf("%d, %v, without %q", code, err, want)
	}
}
