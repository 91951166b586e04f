// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/dnsteer/dnsteer/bpf"
)

// Verdict is how a socket call left the datapath.
type Verdict uint32

// The verdicts, as in bpf/steer.h.
const (
	Steered    = Verdict(bpf.SteerVerdictVERDICT_STEERED)
	Owner      = Verdict(bpf.SteerVerdictVERDICT_OWNER)
	NoListener = Verdict(bpf.SteerVerdictVERDICT_NO_LISTENER)
	Stranger   = Verdict(bpf.SteerVerdictVERDICT_STRANGER)
	Hung       = Verdict(bpf.SteerVerdictVERDICT_HUNG)
	Bound      = Verdict(bpf.SteerVerdictVERDICT_BOUND)
	Excluded   = Verdict(bpf.SteerVerdictVERDICT_EXCLUDED)
	NoRecord   = Verdict(bpf.SteerVerdictVERDICT_NO_RECORD)
	Denied     = Verdict(bpf.SteerVerdictVERDICT_DENIED)
	Restored   = Verdict(bpf.SteerVerdictVERDICT_RESTORED)
)

// String is the verdict's name in output and metrics.
func (v Verdict) String() string { return v.about().name }

// MarshalText makes JSON of it.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Meaning is a clause that explains the verdict to an operator.
func (v Verdict) Meaning() string { return v.about().meaning }

func (v Verdict) about() struct{ name, meaning string } {
	all := verdicts()
	if int(v) >= len(all) {
		return struct{ name, meaning string }{fmt.Sprintf("verdict-%d", uint32(v)), "unknown"}
	}
	return all[v]
}

func verdicts() []struct{ name, meaning string } {
	return []struct{ name, meaning string }{
		Steered:    {"steered", "sent to the resolver"},
		Owner:      {"owner", "left alone: the socket belongs to the exempt UID or GID"},
		NoListener: {"no-listener", "left alone: no resolver listens in that namespace"},
		Stranger:   {"stranger", "left alone: an unauthorised process listens on the target"},
		Hung:       {"hung", "left alone: the resolver's heartbeat is older than 2 s"},
		Bound:      {"bound", "left alone: tied to an interface, or connected to another address"},
		Excluded:   {"excluded", "left alone: this nameserver is not to be steered"},
		NoRecord:   {"no-record", "left alone: the original destination could not be recorded"},
		Denied:     {"denied", "refused with EPERM: fail closed"},
		Restored:   {"restored", "shown the nameserver as the sender of a reply or as the peer"},
	}
}

// Count is how often a verdict was given.
type Count struct {
	Verdict Verdict `json:"verdict"`
	Family  string  `json:"family"` // "ipv4", "ipv6": of the destination
	Proto   string  `json:"proto"`  // "udp", "tcp"
	Calls   uint64  `json:"calls"`  // since the datapath was loaded
}

// Counts returns the verdict counters, in the order of the verdicts, without zeros.
func (d *Datapath) Counts() ([]Count, error) { return countCalls(d.maps[bpf.SteerMapSteerVerdict]) }

func countCalls(m *ebpf.Map) ([]Count, error) {
	var out []Count
	for v := range verdicts() {
		sum, err := sumCalls(m, uint32(v))
		if err != nil {
			return nil, fmt.Errorf("read verdict counters: %w", err)
		}
		for f, family := range families() {
			for p, proto := range protocols() {
				if n := sum.Count[f][p]; n > 0 {
					out = append(out, Count{Verdict(v), family, proto, n})
				}
			}
		}
	}
	return out, nil
}

// families and protocols are the names of the indices of struct calls.
func families() []string  { return []string{familyIPv4: "ipv4", familyIPv6: "ipv6"} }
func protocols() []string { return []string{"udp", "tcp"} }

// sumCalls adds up what the CPUs have counted.
func sumCalls(m *ebpf.Map, key uint32) (bpf.SteerCalls, error) {
	var perCPU []bpf.SteerCalls
	var sum bpf.SteerCalls
	if err := m.Lookup(key, &perCPU); err != nil {
		return sum, err
	}
	for _, calls := range perCPU {
		for f := range families() {
			for p := range protocols() {
				sum.Count[f][p] += calls.Count[f][p]
			}
		}
	}
	return sum, nil
}
