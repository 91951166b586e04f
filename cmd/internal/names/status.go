// SPDX-License-Identifier: Apache-2.0

package names

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsteer/dnsteer/cmd/internal/agentstatus"
)

// Status tells of every cluster and mesh, in the order of the config.
func (s *Sources) Status() (all []agentstatus.Source) {
	for i, k := range s.kinds {
		for _, st := range k.status() {
			st.Source = s.layers[i].Name()
			all = append(all, st)
		}
	}
	return all
}

func (k clusters) status() (all []agentstatus.Source) {
	for _, st := range k.source.Status() {
		all = append(all, agentstatus.Source{Of: st.Name, Synced: st.Synced, Age: st.Away.Seconds(), Error: st.Error})
	}
	return all
}

func (m mesh) status() []agentstatus.Source {
	st := agentstatus.Source{Of: m.Address}
	select {
	case <-m.Served():
		st.Synced = true
	default:
	}
	away, err := m.Away()
	st.Age = away.Seconds()
	if err != nil {
		st.Error = err.Error()
	}
	return []agentstatus.Source{st}
}

// The metrics, as in README.md.
var (
	syncedDesc = prometheus.NewDesc("dnsteer_source_synced",
		"1 if all names of a cluster or mesh have been told once, so that they are served.", []string{"source", "of"}, nil)
	ageDesc = prometheus.NewDesc("dnsteer_source_age_seconds",
		"For how long a cluster or mesh has not been heard, so that its names may be old; 0 while it is heard.", []string{"source", "of"}, nil)
)

// Describe implements prometheus.Collector.
func (s *Sources) Describe(out chan<- *prometheus.Desc) {
	out <- syncedDesc
	out <- ageDesc
}

// Collect implements prometheus.Collector.
func (s *Sources) Collect(out chan<- prometheus.Metric) {
	for _, st := range s.Status() {
		synced := 0.0
		if st.Synced {
			synced = 1
		}
		out <- prometheus.MustNewConstMetric(syncedDesc, prometheus.GaugeValue, synced, st.Source, st.Of)
		out <- prometheus.MustNewConstMetric(ageDesc, prometheus.GaugeValue, st.Age, st.Source, st.Of)
	}
}
