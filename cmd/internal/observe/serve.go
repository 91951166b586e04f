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
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Page is what is served.
type Page struct {
	// Collectors count, besides the process itself.
	Collectors []prometheus.Collector
	// Healthy and Ready say what is wrong; nil functions find nothing. They return
	// before ctx ends.
	Healthy, Ready func(ctx context.Context) error
	Log            *slog.Logger
}

const (
	// checkTimeout is less than probes usually wait.
	checkTimeout = time.Second
	// headerTimeout bounds a request that does not come.
	headerTimeout = 5 * time.Second
	// scrapes at a time; more are refused.
	scrapes = 4
	// stopTimeout bounds the requests that are answered at the end.
	stopTimeout = time.Second
)

// Serve answers requests until ctx ends, and closes l.
func (p Page) Serve(ctx context.Context, l net.Listener) error {
	handler, err := p.handler(isPrivate(l))
	if err != nil {
		_ = l.Close()
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout, ErrorLog: slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug)}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if server.Shutdown(bounded) != nil {
			_ = server.Close() // a profile that takes longer
		}
	})
	err = server.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve metrics: %w", err)
}

func (p Page) handler(profiles bool) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	for _, c := range append([]prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build(),
	}, p.Collectors...) {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("serve metrics: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, ErrorLog: slog.NewLogLogger(p.Log.Handler(), slog.LevelWarn), MaxRequestsInFlight: scrapes,
	}))
	mux.HandleFunc("GET /healthz", check(p.Healthy))
	mux.HandleFunc("GET /readyz", check(p.Ready))
	if profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	}
	return mux, nil
}

// check answers 200, or 503 and the reason.
func check(find func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		defer cancel()
		if find != nil {
			if err := find(ctx); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		_, _ = io.WriteString(w, "ok\n")
	}
}
