// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/resolver"
	"github.com/dnsteer/dnsteer/test/istiod"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

// patience is for what takes milliseconds on a machine that has nothing else to do.
const patience = time.Minute

// quick lets little time pass while a test waits for it.
var quick = timing{least: 20 * time.Millisecond, most: 200 * time.Millisecond, steady: time.Minute,
	patience: patience, ping: 500 * time.Millisecond, pong: 500 * time.Millisecond}

// bench is a source, and a resolver that follows it, on loopback.
type bench struct {
	source *Source
	names  *resolver.Names
	addr   netip.AddrPort
	log    *testenv.LogBook
	stop   func()
}

// newBench runs a source with a config until the test ends. What is not in the table
// fails: there is nobody to ask.
func newBench(t testing.TB, c Config, search ...string) *bench {
	t.Helper()
	b := &bench{log: new(testenv.LogBook), names: resolver.NewNames()}
	c.Logger = slog.New(slog.NewTextHandler(b.log, nil))
	b.source = NewSource(b.names.AddLayer("istio"), c)
	b.source.timing = quick
	server, err := resolver.New(resolver.Config{Search: search})
	if err != nil {
		t.Fatal(err)
	}
	b.names.Follow(server)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	b.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(b.stop)
	running.Go(func() { b.source.Run(ctx) })
	l := listen(t)
	b.addr = l.UDP[0].LocalAddr().(*net.UDPAddr).AddrPort()
	running.Go(func() {
		if err := server.Serve(ctx, l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return b
}

// listen binds UDP and TCP to one free port.
func listen(t testing.TB) resolver.Listeners {
	t.Helper()
	for range 20 {
		tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(tcp.Addr().(*net.TCPAddr).AddrPort()))
		if err != nil {
			tcp.Close()
			continue
		}
		return resolver.Listeners{UDP: []*net.UDPConn{udp}, TCP: []*net.TCPListener{tcp}}
	}
	t.Fatal("no port is free for UDP and TCP")
	return resolver.Listeners{}
}

// plain is the config for an istiod without TLS.
func plain(i *istiod.Server) Config {
	return Config{Address: i.Address(), Plaintext: true, Namespace: "steer"}
}

// ask asks for a name: its records without owner and TTL, sorted, and where they come
// from.
func (b *bench) ask(t testing.TB, name, qtype string) (records []string, origin string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, err := resolver.Query(ctx, b.addr, name, qtype, false)
	if err != nil {
		t.Fatal(err)
	}
	if a.Rcode != "NOERROR" {
		return []string{a.Rcode}, ""
	}
	for _, r := range a.Records {
		records = append(records, strings.Join(strings.Fields(r)[3:], " "))
	}
	slices.Sort(records)
	return records, a.Origin
}

// eventually waits until a name has exactly these records, and returns their origin.
func (b *bench) eventually(t testing.TB, name, qtype string, want ...string) (origin string) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		var got []string
		if got, origin = b.ask(t, name, qtype); !slices.Equal(got, want) {
			return fmt.Errorf("%s %s is %q, want %q; log:\n%s", name, qtype, got, want, b.log)
		}
		return nil
	})
	return origin
}

// unknown is what a name has that is not in the table.
const unknown = "SERVFAIL"

// waitFor waits until something is true of what an istiod has seen.
func waitFor(t testing.TB, i *istiod.Server, what string, f func(istiod.Seen) bool) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		if s := i.Seen(); !f(s) {
			return fmt.Errorf("%s: never; version %d, taken %d, faults %q", what, s.Version, s.Taken, s.Faults)
		}
		return nil
	})
}
