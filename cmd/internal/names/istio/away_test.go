// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsteer/dnsteer/resolver"
	"github.com/dnsteer/dnsteer/test/istiod"
)

// While istiod is away its names stay, with their age; when it is back they are what it
// says then.
func TestAwayAndBack(t *testing.T) {
	i := new(istiod.Server)
	i.Start(t, "127.0.0.1:0")
	i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.1"), "b.example.org": istiod.External("192.0.2.2")})
	b := newBench(t, plain(i))
	b.eventually(t, "a.example.org", "A", "A 192.0.2.1")
	i.Stop()
	b.log.Saw(t, patience, "the stream has ended; connect again", "istiod is away; names stay as they were", "connection refused")
	got, origin := b.ask(t, "a.example.org", "A")
	if !slices.Equal(got, []string{"A 192.0.2.1"}) || !strings.HasPrefix(origin, "table istio "+i.Address()+" (away for ") {
		t.Errorf("while it is away: %q, from %s", got, origin)
	}
	again := new(istiod.Server)
	again.Start(t, i.Address())
	again.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.9")})
	if origin := b.eventually(t, "a.example.org", "A", "A 192.0.2.9"); strings.Contains(origin, "away") {
		t.Errorf("when it is back: from %s", origin)
	}
	if got, _ := b.ask(t, "b.example.org", "A"); !slices.Equal(got, []string{unknown}) {
		t.Errorf("what is gone meanwhile is still %q", got)
	}
	b.log.Saw(t, patience, "names are kept up again")
}

// Names that have not been kept up for too long are let go.
func TestMaxAge(t *testing.T) {
	i := new(istiod.Server)
	i.Start(t, "127.0.0.1:0")
	i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.1")})
	c := plain(i)
	c.MaxAge = time.Millisecond
	b := newBench(t, c)
	b.eventually(t, "a.example.org", "A", "A 192.0.2.1")
	i.Stop()
	b.eventually(t, "a.example.org", "A", unknown)
	b.log.Saw(t, patience, "names have not been kept up for too long; they are let go")
	again := new(istiod.Server)
	again.Start(t, i.Address())
	again.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.1")})
	b.eventually(t, "a.example.org", "A", "A 192.0.2.1")
}

// An istiod that accepts a stream and says nothing is left, and another one is tried.
func TestSilence(t *testing.T) {
	i := new(istiod.Server)
	i.Start(t, "127.0.0.1:0") // it has no table
	s := NewSource(resolver.NewNames().AddLayer("istio"), plain(i))
	s.patience = time.Millisecond
	if err := s.stream(t.Context()); !errors.Is(err, errSilent) {
		t.Errorf("the stream ended with: %v", err)
	}
}

// A network that swallows packets is noticed by a sign of life that does not come.
func TestDeadNetwork(t *testing.T) {
	i := new(istiod.Server)
	i.Start(t, "127.0.0.1:0")
	i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.1")})
	r := newRelay(t, i.Address())
	c := plain(i)
	c.Address = r.Addr().String()
	b := newBench(t, c)
	b.eventually(t, "a.example.org", "A", "A 192.0.2.1")
	r.isDead.Store(true)
	b.log.Saw(t, patience, "the stream has ended; connect again")
	r.isDead.Store(false)
	i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.2")})
	b.eventually(t, "a.example.org", "A", "A 192.0.2.2")
}

// relay passes connections on until it is dead, and swallows what is sent then.
type relay struct {
	net.Listener
	isDead atomic.Bool
}

func newRelay(t testing.TB, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: l}
	var running sync.WaitGroup
	t.Cleanup(func() { l.Close(); running.Wait() })
	pass := func(to, from net.Conn) {
		defer to.Close()
		for buf := make([]byte, 4096); ; {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if !r.isDead.Load() {
				_, _ = to.Write(buf[:n])
			}
		}
	}
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			running.Go(func() { pass(far, near) })
			running.Go(func() { pass(near, far) })
		}
	})
	return r
}

// What is no istiod is told apart, with a remedy.
func TestNotIstiod(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	b := newBench(t, Config{Address: l.Addr().String(), Plaintext: true})
	b.log.Saw(t, patience, "istiod is away", "want port 15012, or 15010 with plaintext")
}

// A thousand nodes that lose istiod at one moment come back one after the other, ask
// less and less often while it is away, and soon enough when it is back.
func TestReconnectStorm(t *testing.T) {
	const nodes, outage = 1000, 10 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		asked := make(map[int]int) // by the tenth of a second
		back := make(chan time.Duration, nodes)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for range nodes {
			isFirst := true
			stream := func(ctx context.Context) error {
				now := time.Since(began)
				if isFirst { // a good one, which all lose at once
					isFirst = false
					select {
					case <-ctx.Done():
					case <-time.After(usual.steady):
					}
					return errors.New("lost")
				}
				mu.Lock()
				asked[int(now/(100*time.Millisecond))]++
				mu.Unlock()
				if now < usual.steady+outage {
					return errors.New("away")
				}
				back <- now - usual.steady - outage
				<-ctx.Done()
				return ctx.Err()
			}
			s := NewSource(resolver.NewNames().AddLayer("istio"), Config{})
			running.Go(func() { s.follow(ctx, stream) })
		}
		for range nodes {
			if late := <-back; late > 2*usual.most {
				t.Errorf("a node came back after %v", late)
			}
		}
		cancel()
		running.Wait()
		most, all := 0, 0
		for _, n := range asked {
			most, all = max(most, n), all+n
		}
		// The first time they come within a second: a tenth of them in a tenth of it.
		if most > nodes/5 {
			t.Errorf("%d of %d nodes asked within a tenth of a second", most, nodes)
		}
		// Some 45 s apart, after the first minute.
		if each := float64(all) / nodes; each < 10 || each > 25 {
			t.Errorf("each node asked %.1f times in %v", each, outage)
		}
	})
}

// The pauses, to the letter.
func TestBackoff(t *testing.T) {
	b := backoff{timing: usual}
	for n, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		lasted := time.Duration(n) * time.Second // long streams that are not steady
		if got := b.wait(lasted, 0); got != want*time.Second {
			t.Errorf("pause %d is %v, want %v s", n, got, want)
		}
	}
	if got := b.wait(0, 0.5); got != 45*time.Second {
		t.Errorf("half of it at random: %v", got)
	}
	if got := b.wait(usual.steady, 0); got != usual.least {
		t.Errorf("after a steady stream: %v", got)
	}
}
