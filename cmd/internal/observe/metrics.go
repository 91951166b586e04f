// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsteer/dnsteer/loader"
)

// The metrics that are not the resolver's, as in README.md.
var (
	verdictsDesc = prometheus.NewDesc("dnsteer_datapath_verdicts_total",
		"Socket calls to port 53, by how they left the datapath, since it was loaded.", []string{"verdict", "family", "protocol"}, nil)
	leaksDesc = prometheus.NewDesc("dnsteer_datapath_leaks_total",
		"Packets to port 53 that left unsteered, by reason, while dnsteer-agent -leaks counts them.", []string{"reason", "family", "protocol"}, nil)
	buildDesc = prometheus.NewDesc("dnsteer_build_info", "1, with the version that runs.", []string{"version"}, nil)
)

// Verdicts collects the counters of a datapath from where count reads them.
func Verdicts(count func() ([]loader.Count, error)) prometheus.Collector { return verdicts(count) }

type verdicts func() ([]loader.Count, error)

// Describe implements prometheus.Collector.
func (v verdicts) Describe(out chan<- *prometheus.Desc) { out <- verdictsDesc }

// Collect implements prometheus.Collector.
func (v verdicts) Collect(out chan<- prometheus.Metric) {
	counts, err := v()
	if err != nil {
		out <- prometheus.NewInvalidMetric(verdictsDesc, err)
		return
	}
	for _, c := range counts {
		out <- prometheus.MustNewConstMetric(verdictsDesc, prometheus.CounterValue, float64(c.Calls), c.Verdict.String(), c.Family, c.Proto)
	}
}

// Leaks collects the counters of leaks likewise.
func Leaks(count func() ([]loader.LeakCount, error)) prometheus.Collector { return leaks(count) }

type leaks func() ([]loader.LeakCount, error)

// Describe implements prometheus.Collector.
func (l leaks) Describe(out chan<- *prometheus.Desc) { out <- leaksDesc }

// Collect implements prometheus.Collector.
func (l leaks) Collect(out chan<- prometheus.Metric) {
	counts, err := l()
	if err != nil {
		out <- prometheus.NewInvalidMetric(leaksDesc, err)
		return
	}
	for _, c := range counts {
		out <- prometheus.MustNewConstMetric(leaksDesc, prometheus.CounterValue, float64(c.Packets), c.Reason.String(), c.Family, c.Proto)
	}
}

type buildInfo struct{}

func build() prometheus.Collector { return buildInfo{} }

// Describe implements prometheus.Collector.
func (buildInfo) Describe(out chan<- *prometheus.Desc) { out <- buildDesc }

// Collect implements prometheus.Collector.
func (buildInfo) Collect(out chan<- prometheus.Metric) {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	out <- prometheus.MustNewConstMetric(buildDesc, prometheus.GaugeValue, 1, version)
}
