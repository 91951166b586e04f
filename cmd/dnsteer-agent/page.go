// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsteer/dnsteer/cmd/internal/observe"
)

// pageRetry is how often the address of -metrics is tried while another has it: the
// agent before us, for a moment.
const pageRetry = time.Second

// servePage serves metrics, health and profiles until ctx ends.
func (t *tenure) servePage(ctx context.Context) {
	page := observe.Page{
		Collectors: []prometheus.Collector{t.agent.server.Collector(), observe.Verdicts(t.agent.datapath.Counts), observe.Leaks(t.agent.datapath.LeakCounts)},
		Ready:      t.agent.Status,
		Log:        t.log,
	}
	if s := t.agent.sources; s != nil {
		page.Collectors = append(page.Collectors, s)
	}
	l, err := observe.ListenAnywhere(t.metrics)
	if err != nil {
		t.log.Warn("metrics are not served yet", "err", err)
	}
	for err != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pageRetry):
			l, err = observe.ListenAnywhere(t.metrics)
		}
	}
	if err := page.Serve(ctx, l); err != nil {
		t.log.Warn("metrics are not served", "err", err)
	}
}
