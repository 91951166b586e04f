// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/dnsteer"
)

// TestFailClosed has nobody to answer but the nameserver, who shall not be asked.
func TestFailClosed(t *testing.T) {
	for _, tc := range []struct {
		name string
		// breakIt takes the resolver away and returns since when it counts as gone,
		// and what brings it back.
		breakIt func(t *testing.T, service *dnsteer.Service) (gone time.Duration, mend func())
	}{
		{"dead", func(t *testing.T, service *dnsteer.Service) (time.Duration, func()) {
			t.Helper()
			resume := pause(t, service.PID())
			_, dead := kill(t, service.Worker())
			return dead, resume
		}},
		{"hung", func(t *testing.T, service *dnsteer.Service) (time.Duration, func()) {
			t.Helper()
			resume := pause(t, service.Worker())
			return now() + hangLimit, resume
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			service := w.run(t, "--fail-closed")
			load := w.load(t, shortPatience, Unconnected, PerQuery, TCP)
			connected := w.load(t, patience, Connected)
			load.await("answered by the resolver", by(byTable, 0))
			connected.await("answered by the resolver", by(byTable, 0))
			gone, mend := tc.breakIt(t, service)
			load.awaitMany("refused", 10, func(q query) bool { return q.Start >= gone && refused(q) })
			mended := now()
			mend()
			load.await("answered by the resolver again", by(byTable, mended))
			connected.await("answered by the resolver again", by(byTable, mended))
			queries, waited := load.stop(0), connected.stop(0)
			service.Stop()

			for _, q := range endedBefore(since(queries, gone), mended) {
				if !refused(q) {
					t.Errorf("%s to %s: answer %v, %s, want EPERM", q.Shape, q.Server, q.Answer, q.Err)
				}
				if took := q.End - q.Start; took > time.Second {
					t.Errorf("%s to %s: refused after %v, want at once", q.Shape, q.Server, took)
				}
			}
			// A connected socket passes no hook: what it asks waits for the resolver.
			assertNotRefused(t, waited)
			if n := count(waited, by(byNameserver, 0)); n > 0 {
				t.Errorf("%d queries of connected sockets went to their nameserver", n)
			}
			for _, nameserver := range w.nameservers {
				if n := nameserver.Count(tableName); n > 0 {
					t.Errorf("%s was asked %d times", nameserver.Addr, n)
				}
			}
			dnsteer.AssertGone(t, w.place, w.bpffs)
		})
	}
}

// refused tells whether the socket call itself failed.
func refused(q query) bool { return strings.HasSuffix(q.Err, unix.EPERM.Error()) }
