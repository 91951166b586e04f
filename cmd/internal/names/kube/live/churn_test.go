// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
)

const (
	writers = 4
	// changes is how often Services change, 1,000 times at least, each once at least.
	changes = 1000
	// bound is how long a state may be told after the API server has replaced it, on a
	// machine that does much else.
	bound = 10 * time.Second
)

// oracle knows every state of every Service in time. A state is an address that no
// other has.
type oracle struct {
	mu     sync.Mutex
	states [][]state
	owner  map[string]int // of an address
	late   time.Duration  // the oldest state that was told, since it was replaced
}

// state began at some time after from, and is certain from acked on.
type state struct {
	addr        string
	from, acked time.Time
}

func (o *oracle) begin(service int, addr string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.states[service] = append(o.states[service], state{addr: addr, from: time.Now()})
	o.owner[addr] = service
}

func (o *oracle) end(service int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.states[service][len(o.states[service])-1].acked = time.Now()
}

// judge says what is wrong with an answer to a question that was asked at a time.
func (o *oracle) judge(service int, asked time.Time, records []string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(records) != 1 {
		return fmt.Errorf("service %d is %q, and it always has one address", service, records)
	}
	at := slices.IndexFunc(o.states[service], func(s state) bool { return s.addr == records[0] })
	if at < 0 {
		return fmt.Errorf("service %d is %s, which is of service %d", service, records[0], o.owner[records[0]])
	}
	if at+1 == len(o.states[service]) {
		return nil // the newest
	}
	if next := o.states[service][at+1]; !next.acked.IsZero() && asked.After(next.acked) {
		o.late = max(o.late, asked.Sub(next.acked))
	}
	if o.late > bound {
		return fmt.Errorf("service %d was %s until %v before it was asked for", service, records[0], o.late)
	}
	return nil
}

// Services (CHURN, 200 by default) change while a client asks: no answer is of another
// Service, of a state that never was or that is long over, or none.
func TestChurn(t *testing.T) {
	churned := number(t, "CHURN", 200)
	p := newPlane(t)
	truth := &oracle{states: make([][]state, churned), owner: make(map[string]int)}
	b := newBench(t, kube.Config{})
	var numbers atomic.Uint32
	fresh := func() string {
		n := numbers.Add(1)
		return netip.AddrFrom4([4]byte{10, byte(1 + n>>16), byte(n >> 8), byte(n)}).String()
	}
	p.store(t, func(yield func(stored) bool) {
		for i := range churned {
			addr, name := fresh(), fmt.Sprint("s", i)
			truth.begin(i, addr)
			if !yield(storedService(name, corev1.ClusterIPNone)) || !yield(storedSlice(name, true, []string{addr})) {
				return
			}
			truth.end(i) // nobody follows yet
		}
	})
	b.set(t, kube.Cluster{Name: "east", Zones: []string{"east.example.org"}, Rest: p.config})
	b.eventually(t, "dns-version.east.example.org", "TXT", `"1.1.0"`)

	asking := ask(t, b.addr, churned, truth.judge)
	start := time.Now()
	rounds := max(1, changes/churned)
	for range rounds {
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for i := w; i < churned && !t.Failed(); i += writers {
					addr := fresh()
					truth.begin(i, addr)
					p.endpoints(t, fmt.Sprint("s", i), addr)
					truth.end(i)
				}
			})
		}
		all.Wait()
	}
	took := time.Since(start)
	asking.end(t)
	// In the end all is as it was written last.
	for i := range churned {
		last := truth.states[i][len(truth.states[i])-1]
		b.eventually(t, fmt.Sprintf("s%d.default.svc.east.example.org", i), "A", last.addr)
	}
	t.Logf("%d changes in %v; the oldest state was over for %v", churned*rounds, took.Round(time.Millisecond), truth.late.Round(time.Millisecond))
}
