// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/cmd/internal/names/kube"
	"github.com/dnsteer/dnsteer/resolver"
)

const (
	writers = 4
	askers  = 4
	// askEvery is how often each of them asks: 1,000 queries a second in all.
	askEvery = askers * time.Millisecond
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

// Services (CHURN, 200 by default) change while clients ask: no answer is of another Service, of a state that
// never was or that is long over, or none.
func TestChurn(t *testing.T) {
	churned := number(t, "CHURN", 200)
	p := newPlane(t)
	truth := &oracle{states: make([][]state, churned), owner: make(map[string]int)}
	b := newBench(t, kube.Config{})
	var numbers atomic.Uint32
	write := func(service int, put func(testing.TB, string, ...string)) {
		n := numbers.Add(1)
		addr := netip.AddrFrom4([4]byte{10, byte(1 + n>>16), byte(n >> 8), byte(n)}).String()
		truth.begin(service, addr)
		put(t, fmt.Sprint("s", service), addr)
		truth.end(service)
	}
	each := func(do func(service int)) {
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for i := w; i < churned && !t.Failed(); i += writers {
					do(i)
				}
			})
		}
		all.Wait()
	}
	each(func(i int) { write(i, p.service) })
	b.set(t, kube.Cluster{Name: "east", Zones: []string{"east.example.org"}, Rest: p.config})
	b.eventually(t, "dns-version.east.example.org", "TXT", `"1.1.0"`)

	ctx, cancel := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	var asked atomic.Int64
	for a := range askers {
		asking.Go(func() {
			tick := time.NewTicker(askEvery)
			defer tick.Stop()
			for i := a * churned / askers; ctx.Err() == nil; i = (i + 7) % churned {
				<-tick.C
				start := time.Now()
				answer, err := resolver.Query(context.Background(), b.addr, fmt.Sprintf("s%d.default.svc.east.example.org", i), "A", false)
				if err != nil {
					t.Error(err)
					return
				}
				var records []string
				for _, r := range answer.Records {
					records = append(records, strings.Fields(r)[4])
				}
				if err := truth.judge(i, start, records); err != nil {
					t.Error(err)
					return
				}
				asked.Add(1)
			}
		})
	}
	start := time.Now()
	rounds := max(1, changes/churned)
	for range rounds {
		each(func(i int) { write(i, p.endpoints) })
	}
	took := time.Since(start)
	cancel()
	asking.Wait()
	// In the end all is as it was written last.
	for i := range churned {
		last := truth.states[i][len(truth.states[i])-1]
		b.eventually(t, fmt.Sprintf("s%d.default.svc.east.example.org", i), "A", last.addr)
	}
	t.Logf("%d changes in %v, %d queries, the oldest state was over for %v", churned*rounds, took.Round(time.Millisecond), asked.Load(), truth.late.Round(time.Millisecond))
}
