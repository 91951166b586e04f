// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

// serve serves a page and returns how to ask for a path.
func serve(t *testing.T, address string, p Page) func(path string) (int, string) {
	t.Helper()
	l, err := ListenAnywhere(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error)
	p.Log = slog.New(slog.DiscardHandler)
	go func() { served <- p.Serve(ctx, l) }()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, l.Addr().Network(), l.Addr().String())
		},
	}}
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get("http://host" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
}

func counts() ([]loader.Count, error) {
	return []loader.Count{{Verdict: loader.Steered, Family: "ipv4", Proto: "udp", Calls: 7}}, nil
}

func leaked() ([]loader.LeakCount, error) {
	return []loader.LeakCount{{Reason: loader.LeakBound, Family: "ipv4", Proto: "udp", Packets: 7}}, nil
}

func TestPage(t *testing.T) {
	var sick, unready error
	for name, address := range map[string]string{"tcp": "127.0.0.1:0", "tcp6": "[::1]:0", "name": "localhost:0", "unix": filepath.Join(t.TempDir(), "s")} {
		t.Run(name, func(t *testing.T) {
			sick, unready = nil, nil
			ask := serve(t, address, Page{
				Collectors: []prometheus.Collector{Verdicts(counts)},
				Healthy:    func(context.Context) error { return sick },
				Ready:      func(context.Context) error { return unready },
			})
			for path, want := range map[string]string{
				"/metrics":                      `dnsteer_datapath_verdicts_total{family="ipv4",protocol="udp",verdict="steered"} 7`,
				"/healthz":                      "ok\n",
				"/readyz":                       "ok\n",
				"/debug/pprof/":                 "goroutine",
				"/debug/pprof/heap?debug=1":     "heap profile",
				"/debug/pprof/trace?seconds=.1": "go 1.",
			} {
				if code, body := ask(path); code != http.StatusOK || !strings.Contains(body, want) {
					t.Errorf("%s: %d %.200s", path, code, body)
				}
			}
			for path, err := range map[string]*error{"/healthz": &sick, "/readyz": &unready} {
				*err = errors.New("it hangs")
				if code, body := ask(path); code != http.StatusServiceUnavailable || body != "it hangs\n" {
					t.Errorf("%s: %d %q", path, code, body)
				}
			}
			if code, _ := ask("/"); code != http.StatusNotFound {
				t.Errorf("/: %d", code)
			}
		})
	}
}

// Beyond loopback there are no profiles. This host's addresses are all its own namespace's.
func TestPageAnywhere(t *testing.T) {
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0"} {
		ask := serve(t, address, Page{})
		if code, body := ask("/metrics"); code != http.StatusOK || !strings.Contains(body, "dnsteer_build_info") {
			t.Errorf("%s: %d %.200s", address, code, body)
		}
		if code, _ := ask("/debug/pprof/"); code != http.StatusNotFound {
			t.Errorf("%s: profiles: %d", address, code)
		}
	}
	if l, err := ListenAnywhere("relative/socket"); err == nil {
		l.Close()
		t.Error("listens on no address")
	}
}

// A counter that cannot be read hides no other.
func TestMetricsInPart(t *testing.T) {
	ask := serve(t, "127.0.0.1:0", Page{Collectors: []prometheus.Collector{
		Verdicts(func() ([]loader.Count, error) { return nil, errors.New("no map") }),
	}})
	if code, body := ask("/metrics"); code != http.StatusOK || !strings.Contains(body, "dnsteer_build_info") {
		t.Errorf("%d %.200s", code, body)
	}
}

func TestListenRefuses(t *testing.T) {
	for _, address := range []string{"", "0.0.0.0:9153", "192.0.2.1:9153", "127.0.0.1", ":9153", "[::]:9153", "relative/socket", "/no/such/directory/s"} {
		if l, err := Listen(address); err == nil {
			l.Close()
			t.Errorf("%q: listens", address)
		}
	}
}

// A socket that was left is replaced; one that is in use, and a file, are not.
func TestListenAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if other, err := Listen(path); err == nil {
		other.Close()
		t.Error("took a socket that is in use")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen(path); err == nil {
		l.Close()
		t.Error("took the place of a file")
	}
}

// README.md lists the metrics of this package.
func TestReadme(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(Verdicts(counts), Leaks(leaked), build())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var served []string
	for _, f := range families {
		served = append(served, fmt.Sprintf("`%s` %s | %s", f.GetName(), strings.ToLower(f.GetType().String()), f.GetHelp()))
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| (`dnsteer_\\w+`) \\| (\\w+) \\| .* \\| (.*) \\|$").FindAllStringSubmatch(string(readme), -1) {
		listed = append([]string{fmt.Sprintf("%s %s | %s", m[1], m[2], m[3])}, listed...)
	}
	if diff := cmp.Diff(listed, served); diff != "" {
		t.Errorf("(-README.md +served):\n%s", diff)
	}
}
