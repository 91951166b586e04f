// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what a Server counts. Nothing in it knows a name or an address.
type metrics struct {
	sets [counterSets]counters
	turn atomic.Uint32

	dropped, unsent, joins atomic.Uint64
	loops                  atomic.Uint64 // upstreams that lead back to us
	connections            atomic.Int64

	exchanges [2][outcomeCount]atomic.Uint64 // by UDP or TCP
	latency   [2]histogram
	retries   [retryCount]atomic.Uint64
}

// counters returns the one for a new loop.
func (m *metrics) counters() *counters { return &m.sets[m.turn.Add(1)%counterSets] }

// lookup is what the cache had for a query of the long way.
type lookup uint8

const (
	lookupMiss lookup = iota
	lookupHit
	lookupStale
	lookupCount
)

func (l lookup) String() string { return [lookupCount]string{"miss", "hit", "stale"}[l] }

// outcome is what became of one exchange with an upstream.
type outcome uint8

const (
	outcomeAnswer  outcome = iota
	outcomeRefusal         // SERVFAIL or REFUSED
	outcomeTimeout
	outcomeError // of the socket or the connection, or what is no DNS message
	outcomeCount
)

func (o outcome) String() string {
	return [outcomeCount]string{"answer", "refusal", "timeout", "error"}[o]
}

// retry is why an upstream was asked again, or another one.
type retry uint8

const (
	retryResend   retry = iota // silence
	retryFailover              // an error, SERVFAIL or REFUSED of another upstream
	retryTCP                   // a truncated or damaged answer by UDP
	retryEDNS                  // an upstream that knows no EDNS
	retryCookie                // a cookie that an upstream does not take, or does not send
	retryCase                  // a question that came back in another case
	retryCount
)

func (r retry) String() string {
	return [retryCount]string{"resend", "failover", "tcp", "edns", "cookie", "case"}[r]
}

// exchanged notes one exchange with an upstream.
func (m *metrics) exchanged(tcp bool, took time.Duration, o outcome) {
	m.exchanges[protocolIndex(tcp)][o].Add(1)
	if o == outcomeAnswer || o == outcomeRefusal {
		m.latency[protocolIndex(tcp)].observe(1, took)
	}
}

// metric is one line of the table in README.md.
type metric struct {
	name, kind, help string
	labels           []string
}

// The metrics, in the order of README.md.
var (
	metricQueries     = metric{"dnsteer_resolver_queries_total", "counter", "Queries answered, by where the answer came from; failure is an answer that says why there is none.", []string{"protocol", "rcode", "source"}}
	metricDuration    = metric{"dnsteer_resolver_query_duration_seconds", "histogram", "Time from reading a query to writing its answer.", []string{"source"}}
	metricDropped     = metric{"dnsteer_resolver_dropped_total", "counter", "Messages that get no answer: answers, and less than a header.", nil}
	metricUnsent      = metric{"dnsteer_resolver_unsent_total", "counter", "Answers that the kernel did not take, or that were owed to a TCP client that does not read when its connection was closed.", nil}
	metricConnections = metric{"dnsteer_resolver_connections", "gauge", "TCP connections of clients.", nil}
	metricWaiting     = metric{"dnsteer_resolver_waiting", "gauge", "Queries that wait for an upstream, or for the answer to an identical one.", nil}
	metricJoins       = metric{"dnsteer_resolver_joins_total", "counter", "Queries that waited for the answer to an identical one.", nil}
	metricSaved       = metric{"dnsteer_resolver_saved_queries_total", "counter", "Questions that upstreams were spared: names of the table with a search suffix behind them, names that do not exist in its authority, other names that do not exist when asked for another type, and names below those.", nil}
	metricNames       = metric{"dnsteer_table_names", "gauge", "Names in the table.", nil}
	metricLayer       = metric{"dnsteer_table_layer_names", "gauge", "Names that a source gives, hidden ones included.", []string{"layer"}}
	metricHidden      = metric{"dnsteer_table_hidden_names", "gauge", "Names of a source that an earlier one has too, so that they do not count.", []string{"layer"}}
	metricEntries     = metric{"dnsteer_cache_entries", "gauge", "Answers and failures in the cache.", nil}
	metricBytes       = metric{"dnsteer_cache_bytes", "gauge", "Memory that the cache counts as used.", nil}
	metricLookups     = metric{"dnsteer_cache_lookups_total", "counter", "Look-ups in the cache, by what was found: an answer, one that has expired but serves, nothing that serves.", []string{"result"}}
	metricEvictions   = metric{"dnsteer_cache_evictions_total", "counter", "Entries that made room for others.", nil}
	metricPrefetches  = metric{"dnsteer_cache_prefetches_total", "counter", "Answers that were fetched again before they expired, because they are in use.", nil}
	metricExchanges   = metric{"dnsteer_upstream_exchanges_total", "counter", "Exchanges with upstreams, by outcome; refusal is SERVFAIL, REFUSED or a referral.", []string{"protocol", "result"}}
	metricLatency     = metric{"dnsteer_upstream_exchange_duration_seconds", "histogram", "Time from asking an upstream to its answer.", []string{"protocol"}}
	metricRetries     = metric{"dnsteer_upstream_retries_total", "counter", "Questions asked again, by reason: silence, failure of another upstream, truncation, no EDNS, a cookie that is not right, a name in another case.", []string{"kind"}}
	metricLoops       = metric{"dnsteer_upstream_loops_total", "counter", "Upstreams that were found to lead back to this resolver.", nil}
)

func allMetrics() []metric {
	return []metric{
		metricQueries, metricDuration, metricDropped, metricUnsent, metricConnections, metricWaiting, metricJoins, metricSaved,
		metricNames, metricLayer, metricHidden, metricEntries, metricBytes, metricLookups, metricEvictions, metricPrefetches,
		metricExchanges, metricLatency, metricRetries, metricLoops,
	}
}

func (m metric) desc() *prometheus.Desc {
	return prometheus.NewDesc(m.name, m.help, m.labels, nil)
}

func (m metric) counter(n uint64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(m.desc(), prometheus.CounterValue, float64(n), labels...)
}

func (m metric) gauge(n int, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(m.desc(), prometheus.GaugeValue, float64(n), labels...)
}

func (m metric) histogram(v moments, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstHistogram(m.desc(), v.count, v.seconds, v.buckets, labels...)
}

// collector reads a Server's counters.
type collector struct{ *Server }

// Collector returns the server's metrics, for a registry of the caller's. README.md
// lists them.
func (s *Server) Collector() prometheus.Collector { return collector{s} }

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range allMetrics() {
		out <- m.desc()
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	c.collectQueries(out)
	c.collectCache(out)
	c.collectUpstreams(out)
}

var protocols = [2]string{"udp", "tcp"}

func (c collector) collectQueries(out chan<- prometheus.Metric) {
	m := c.metrics
	for p, protocol := range protocols {
		for s := range sourceCount {
			for r := range rcodeCount {
				var n uint64
				for i := range m.sets {
					n += m.sets[i].queries[p][s][r].Load()
				}
				if n > 0 {
					out <- metricQueries.counter(n, protocol, rcodeName(r), s.String())
				}
			}
		}
	}
	for s := range sourceCount {
		var all []*histogram
		for i := range m.sets {
			all = append(all, &m.sets[i].durations[s])
		}
		out <- metricDuration.histogram(sum(all...), s.String())
	}
	c.collectCounts(out)
}

func (c collector) collectCounts(out chan<- prometheus.Metric) {
	m := c.metrics
	var saved uint64
	for i := range m.sets {
		saved += m.sets[i].saved.Load()
	}
	out <- metricDropped.counter(m.dropped.Load())
	out <- metricUnsent.counter(m.unsent.Load())
	out <- metricConnections.gauge(int(m.connections.Load()))
	out <- metricWaiting.gauge(int(c.forwards.taken.Load()))
	out <- metricJoins.counter(m.joins.Load())
	out <- metricSaved.counter(saved)
	t := c.table.Load()
	out <- metricNames.gauge(t.Names())
	for layer, n := range t.tallies {
		if layer != nil { // of a table that is no layers'
			out <- metricLayer.gauge(n.given, layer.name)
			out <- metricHidden.gauge(n.hidden, layer.name)
		}
	}
}

func (c collector) collectCache(out chan<- prometheus.Metric) {
	var entries, octets int
	var evictions, prefetches uint64
	var lookups [lookupCount]uint64
	if c.cache != nil {
		entries, octets, evictions = c.cache.load()
		prefetches = c.cache.prefetches.Load()
		for l := range lookups {
			lookups[l] = c.cache.lookups[l].Load()
		}
	}
	for i := range c.metrics.sets {
		lookups[lookupHit] += c.metrics.sets[i].hits.Load()
	}
	out <- metricEntries.gauge(entries)
	out <- metricBytes.gauge(octets)
	for l := range lookupCount {
		out <- metricLookups.counter(lookups[l], l.String())
	}
	out <- metricEvictions.counter(evictions)
	out <- metricPrefetches.counter(prefetches)
}

func (c collector) collectUpstreams(out chan<- prometheus.Metric) {
	m := c.metrics
	for p, protocol := range protocols {
		for o := range outcomeCount {
			out <- metricExchanges.counter(m.exchanges[p][o].Load(), protocol, o.String())
		}
		out <- metricLatency.histogram(sum(&m.latency[p]), protocol)
	}
	for r := range retryCount {
		out <- metricRetries.counter(m.retries[r].Load(), r.String())
	}
	out <- metricLoops.counter(m.loops.Load())
}
