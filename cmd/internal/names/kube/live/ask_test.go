// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// askEvery is how often the asker asks: 1,000 queries a second.
	askEvery = time.Millisecond
	// maxOpen queries wait for their answer at a time: so many fit into any socket's buffer.
	maxOpen = 200
	// stride is from one Service to the next that is asked for, so that neighbours, which
	// change together, are not.
	stride = 7919
	// fullRate is how much of the rate is all of it: a burst at the end may be cut off.
	fullRate = 0.99
	// busy is from when on the machine is to blame for a lower one: for so much of the time
	// threads of ours were ready to run and others had the processors.
	busy = 0.1
)

// asker asks as clients do, at a steady rate: one goroutine sends what is due, another reads
// and judges.
type asker struct {
	conn  net.Conn
	judge func(service int, asked time.Time, records []string) error
	slots chan struct{} // holds a word for each open query

	start   time.Time
	waited  time.Duration // of this process before the start
	stop    context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	open  map[uint16]question
	asked int
}

// question is a query that waits for its answer.
type question struct {
	service int
	at      time.Time
}

// ask begins to ask for one of so many Services after the other.
func ask(t testing.TB, server netip.AddrPort, services int, judge func(int, time.Time, []string) error) *asker {
	t.Helper()
	conn, err := net.Dial("udp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	a := &asker{conn: conn, judge: judge, slots: make(chan struct{}, maxOpen), open: make(map[uint16]question),
		start: time.Now(), waited: waited(t)}
	var ctx context.Context
	ctx, a.stop = context.WithCancel(context.Background())
	for _, run := range []func() error{func() error { return a.send(ctx, services) }, a.read} {
		a.running.Go(func() {
			if err := run(); err != nil {
				t.Error(err)
				a.stop()
			}
		})
	}
	return a
}

// end stops asking, waits until all is answered, and tells the rate.
func (a *asker) end(t testing.TB) {
	t.Helper()
	a.stop()
	took, waited := time.Since(a.start), waited(t)-a.waited
	if !t.Failed() {
		testenv.Eventually(t, patience, func() error {
			a.mu.Lock()
			defer a.mu.Unlock()
			if n := len(a.open); n > 0 {
				return fmt.Errorf("%d queries have no answer", n)
			}
			return nil
		})
	}
	a.conn.Close()
	a.running.Wait()
	a.tellRate(t, took, waited)
}

// tellRate says what rate was reached. A lower one than was meant is a failure, unless
// there was no processor to reach it with.
func (a *asker) tellRate(t testing.TB, took, waited time.Duration) {
	t.Helper()
	rate, wait := float64(a.asked)/took.Seconds(), waited.Seconds()/took.Seconds()
	t.Logf("%d queries in %v, %.0f a second; threads waited for a processor for %.0f %% of that", a.asked, took.Round(time.Millisecond), rate, 100*wait)
	if least := fullRate * float64(time.Second/askEvery); rate < least && wait < busy {
		t.Errorf("%.0f queries a second, fewer than %.0f, and processors were free", rate, least)
	}
}

// send asks until ctx ends. What was due while it could not is asked at once.
func (a *asker) send(ctx context.Context, services int) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for due := int(time.Since(a.start) / askEvery); n < due; n++ {
			select {
			case <-ctx.Done():
				return nil
			case a.slots <- struct{}{}:
			}
			if err := a.query(uint16(n), n*stride%services); err != nil {
				return err
			}
		}
	}
}

func (a *asker) query(id uint16, service int) error {
	var m dns.Msg
	m.SetQuestion(fmt.Sprintf("s%d.default.svc.east.example.org.", service), dns.TypeA)
	m.Id = id
	wire, err := m.Pack()
	if err != nil {
		return err
	}
	a.mu.Lock()
	_, taken := a.open[id]
	a.open[id] = question{service, time.Now()}
	a.asked++
	a.mu.Unlock()
	if taken {
		return fmt.Errorf("query %d has no answer after 65,535 others", id)
	}
	_, err = a.conn.Write(wire)
	return err
}

// read judges answers until the socket is closed.
func (a *asker) read() error {
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := a.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		var m dns.Msg
		if err := errors.Join(err, m.Unpack(buf[:n])); err != nil {
			return err
		}
		a.mu.Lock()
		q, ok := a.open[m.Id]
		delete(a.open, m.Id)
		a.mu.Unlock()
		if !ok {
			return fmt.Errorf("an answer to no query: %v", &m)
		}
		<-a.slots
		if m.Rcode != dns.RcodeSuccess {
			return fmt.Errorf("service %d is %s", q.service, dns.RcodeToString[m.Rcode])
		}
		var records []string
		for _, rr := range m.Answer {
			if rr, ok := rr.(*dns.A); ok {
				records = append(records, rr.A.String())
			}
		}
		if err := a.judge(q.service, q.at, records); err != nil {
			return err
		}
	}
}

// waited is for how long threads of this process have been ready to run and did not.
func waited(t testing.TB) (all time.Duration) {
	t.Helper()
	paths, err := filepath.Glob("/proc/self/task/*/schedstat")
	if err != nil || len(paths) == 0 {
		t.Fatalf("find the threads of this process: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that has ended
		}
		var ran, waited, slices int64
		if _, err := fmt.Sscan(string(text), &ran, &waited, &slices); err != nil {
			t.Fatalf("read %s: %v", path, err)
		}
		all += time.Duration(waited)
	}
	return all
}
